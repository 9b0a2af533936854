//! What the fuzz targets begin with: the golden data of the tests, in the form that each target reads.
//!
//! ```text
//!   tests/golden/data ──► configurations, dumps: as they are
//!                    └──► images of metadata: superblock, ring of the log and pages of the bitmap, each apart
//!                    └──► captures: one node's side of a conversation as a script (see fuzz/src/script.rs)
//! ```
//!
//! Written into `fuzz/corpus` before a run. What the fuzzer has found itself stays there.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde_json::Value;

const GOLDEN: &str = "tests/golden/data";
const CORPUS: &str = "fuzz/corpus";

/// Of a conversation; more would only make each try slower.
const CONVERSATION_BYTES: usize = 24 << 10;
/// How a conversation's streams are cut.
const CHUNK_BYTES: usize = 700;

/// Header of the first packet of a stream: magic, command, no length.
const INITIAL_META: [u8; 8] = [0x83, 0x74, 0x02, 0x67, 0xff, 0xf1, 0, 0];
const INITIAL_DATA: [u8; 8] = [0x83, 0x74, 0x02, 0x67, 0xff, 0xf2, 0, 0];

/// Lines of the admin socket.
const CONTROL_LINES: &[&str] = &[
    r#"{"id":1,"verb":"status","resource":"data","options":{}}"#,
    r#"{"id":2,"verb":"primary","resource":"data","volume":0,"options":{"force":true}}"#,
    r#"{"id":3,"verb":"events","options":{"now":true,"statistics":true,"timestamps":true}}"#,
    r#"{"id":4,"verb":"resize","resource":"data","volume":1,"options":{"assume_clean":true}}"#,
];

/// What a client says: flags, GO for the export `data`, a write, a read, a flush, the end.
const NBD_CLIENT: &[&[u8]] = &[
    &[0, 0, 0, 3],
    b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04data\0\0",
    b"\x25\x60\x95\x13\0\0\0\x01AAAAAAAA\0\0\0\0\0\0\0\0\0\0\x02\0",
    &[0x55; 512],
    b"\x25\x60\x95\x13\0\0\0\0BBBBBBBB\0\0\0\0\0\0\x02\0\0\0\x10\0",
    b"\x25\x60\x95\x13\0\0\0\x03CCCCCCCC\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\x25\x60\x95\x13\0\0\0\x06DDDDDDDD\0\0\0\0\0\0\x10\0\0\0\x10\0",
    b"\x25\x60\x95\x13\0\0\0\x02EEEEEEEE\0\0\0\0\0\0\0\0\0\0\0\0",
];

/// What a server says: greeting, structured replies, the export, then a read in one chunk, an error with words, the end of
/// a write and, in the old form, of a flush.
const NBD_SERVER: &[(u8, &[u8])] = &[
    (0, b"NBDMAGICIHAVEOPT\0\x03"),
    (0, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0"),
    (0, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\x04\0\0\0\x01\x6d"),
    (0, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0"),
    (1, b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x04\0\0\0\x0c\0\0\0\0\0\0\x10\0\0\0\x10\0"),
    (1, b"\x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\x05\0\0\0\x09\0\0\0\x05\0\x03bad"),
    (3, b"\x66\x8e\x33\xef\0\x01\0\0\0\0\0\0\0\0\0\x06\0\0\0\0"),
    (2, b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x07"),
];

/// Two nodes as `uuid_decide` reads them: four generations, five flags, disk and role of each, then the surroundings. Equal;
/// the peer missed our last writes; a split brain; both just made; a crashed Primary.
const MEETINGS: &[[u8; 30]] = &[
    meeting([2, 0, 3, 4, 0, 0, 0, 0, 0, 4, 0], [2, 0, 3, 4, 0, 0, 0, 0, 0, 4, 0]),
    meeting([3, 2, 4, 5, 1, 0, 0, 0, 0, 4, 1], [2, 0, 4, 5, 0, 0, 0, 0, 0, 4, 0]),
    meeting([3, 2, 4, 5, 1, 0, 0, 0, 0, 4, 1], [6, 2, 4, 5, 1, 0, 0, 0, 0, 4, 0]),
    meeting([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]),
    meeting([2, 0, 3, 4, 1, 1, 0, 0, 0, 4, 0], [2, 0, 3, 4, 0, 0, 0, 0, 0, 4, 0]),
];

const fn meeting(own: [u8; 11], peer: [u8; 11]) -> [u8; 30] {
    let mut bytes = [0; 30];
    let mut at = 0;
    while at < own.len() {
        bytes[at] = own[at];
        bytes[own.len() + at] = peer[at];
        at += 1;
    }
    // The newest protocol.
    bytes[22] = 15;
    bytes
}

/// A configuration of three files.
const INCLUDES: &str = "include \"a.res\";\ninclude \"*.conf.d\";\n%%% a.res\nglobal { usage-count no; }\n\
    include \"b.res\";\n%%% b.res\nresource data {\n  on alpha { device /dev/drbd0; disk /a; address 10.0.0.1:7789; \
    meta-disk internal; }\n  on bravo { device /dev/drbd0; disk /b; address 10.0.0.2:7789; meta-disk internal; }\n}\n";

/// Writes all seeds.
pub(crate) fn write() -> Result<()> {
    let golden = Path::new(GOLDEN);
    copy("config", &golden.join("config"), "res")?;
    copy("dump_text", &golden.join("metadata"), "txt")?;
    for (number, line) in CONTROL_LINES.iter().enumerate() {
        put("control_api", &format!("line-{number}"), line.as_bytes())?;
    }
    put("config", "includes", INCLUDES.as_bytes())?;
    put("nbd_client", "server", &script(NBD_SERVER.iter().copied()))?;
    for (number, meeting) in MEETINGS.iter().enumerate() {
        put("uuid_decide", &format!("meeting-{number}"), meeting)?;
    }
    for image in images(&golden.join("metadata"))? {
        image.seeds()?;
    }
    put("nbd_handshake", "client", &script(NBD_CLIENT.iter().map(|bytes| (0, *bytes))))?;
    put("nbd_stream", "client", &script(NBD_CLIENT[2..].iter().map(|bytes| (1, *bytes))))?;
    for path in files(&golden.join("wire"), "pcap")? {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (number, [data, meta]) in conversations(&fs::read(&path)?).iter().enumerate() {
            put("peer_stream", &format!("{stem}-{number}"), &interleaved(data, meta))?;
            for (kind, stream) in [(0, data), (1, meta)] {
                put("peer_packet", &format!("{stem}-{number}-{kind}"), &one_stream(kind, stream))?;
            }
        }
    }
    Ok(())
}

/// A piece of a device that drbdmeta has written.
struct Image {
    name: String,
    /// 0 internal, 1 flexible external, 2 and more indexed, as `metadata_attach` reads it.
    placement: u8,
    device_bytes: u64,
    slots: u8,
    /// From the superblock on, the ring of the log, and the bitmap, as far as the piece reaches.
    superblock: Vec<u8>,
    ring: Vec<u8>,
    bitmap: Vec<u8>,
}

const PAGE_BYTES: usize = 4096;
/// Blocks of a ring that are tried.
const RING_BYTES: usize = 8 * PAGE_BYTES;

fn images(folder: &Path) -> Result<Vec<Image>> {
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("images.json"))?)?;
    rows.iter().map(|row| Image::load(folder, row)).collect()
}

impl Image {
    fn load(folder: &Path, row: &Value) -> Result<Self> {
        let name = row["name"].as_str().context("an image has a name")?.to_owned();
        let number = |field: &str| row[field].as_u64().with_context(|| format!("{name} has no {field}"));
        let mut bytes = Vec::new();
        GzDecoder::new(fs::File::open(folder.join(format!("{name}.blob.gz")))?).read_to_end(&mut bytes)?;
        let begin = number("blob_device_offset")?;
        // What lies before the piece is not in it.
        let piece = |at: u64, length: usize| {
            let rest = at.checked_sub(begin).and_then(|at| bytes.get(usize::try_from(at).ok()?..));
            rest.map_or_else(Vec::new, |rest| rest[..rest.len().min(length)].to_vec())
        };
        let placement = match row["index"].as_str() {
            Some("internal") => 0,
            Some("flex-external") => 1,
            index => 2 + 3 * index.and_then(|index| index.parse::<u8>().ok()).context("an index is a number")?,
        };
        let slots = row["bitmap_set_ranges_per_slot"].as_array().map_or(1, Vec::len);
        Ok(Self {
            placement,
            device_bytes: number("device_bytes")?,
            slots: u8::try_from(slots.max(1)).context("few slots")?,
            superblock: piece(number("superblock_device_offset")?, PAGE_BYTES),
            ring: piece(number("al_device_offset")?, RING_BYTES),
            bitmap: piece(number("bitmap_device_offset")?, PAGE_BYTES),
            name,
        })
    }

    fn seeds(&self) -> Result<()> {
        let sectors = self.device_bytes / 512;
        let unit = sectors.trailing_zeros();
        // Sizes that are no small number of powers of two cannot be said in the target's five bytes.
        if let Ok(multiple) = u16::try_from(sectors >> unit) {
            let [low, high] = multiple.to_le_bytes();
            let head = [self.placement, u8::try_from(unit)?, low, high, 0];
            put("metadata_attach", &self.name, &[&head[..], &self.superblock].concat())?;
        }
        put("al_replay", &self.name, &[&[0][..], &self.ring].concat())?;
        if !self.bitmap.is_empty() {
            put("bitmap_page", &self.name, &[&[self.slots, 0, 0, 2][..], &self.bitmap].concat())?;
            put("bitmap_rle", &self.name, &[&[0, 0x80, 0, 0][..], &self.bitmap].concat())?;
        }
        Ok(())
    }
}

fn copy(target: &str, folder: &Path, extension: &str) -> Result<()> {
    for path in files(folder, extension)? {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().replace('/', "-");
        put(target, &name, &fs::read(&path)?)?;
    }
    Ok(())
}

fn put(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let folder = Path::new(CORPUS).join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("seed-{name}")), bytes).with_context(|| format!("{folder:?}"))
}

/// All files with that extension, in subfolders as well.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{folder:?}"))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn script<'a>(steps: impl Iterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let mut script = Vec::new();
    for (which, bytes) in steps {
        let length = u16::try_from(bytes.len()).expect("steps are short");
        script.push(which);
        script.extend(length.to_le_bytes());
        script.extend(bytes);
    }
    script
}

/// Both streams in turns, as two sockets deliver them.
fn interleaved(data: &[u8], meta: &[u8]) -> Vec<u8> {
    let firsts = [(0, &data[..8]), (1, &meta[..8])];
    let (mut data, mut meta) = (data[8..].chunks(CHUNK_BYTES), meta[8..].chunks(CHUNK_BYTES));
    let rest = std::iter::from_fn(|| {
        let pair = [data.next().map(|bytes| (0, bytes)), meta.next().map(|bytes| (1, bytes))];
        pair.iter().any(Option::is_some).then_some(pair)
    });
    script(firsts.into_iter().chain(rest.flatten().flatten()))
}

/// One stream, with the newest version and all features agreed after its beginning.
fn one_stream(kind: u8, stream: &[u8]) -> Vec<u8> {
    let first = std::iter::once((0, &stream[..stream.len().min(CHUNK_BYTES)]));
    let rest = stream.get(CHUNK_BYTES..).unwrap_or_default().chunks(CHUNK_BYTES).map(|bytes| (0xff, bytes));
    let mut seed = vec![kind, 15, 0xf, 0];
    seed.extend(script(first.chain(rest)));
    seed
}

type End = (u32, u16);

/// What each node said on its first data stream and its first meta stream, each beginning with the packet that says which
/// of the two it is.
fn conversations(capture: &[u8]) -> Vec<[Vec<u8>; 2]> {
    let flows = flows(capture);
    let mut senders: BTreeMap<u32, [Option<Vec<u8>>; 2]> = BTreeMap::new();
    for (&(from, to), bytes) in &flows {
        let answers = flows.get(&(to, from)).map(Vec::as_slice).unwrap_or_default();
        for (which, initial) in [INITIAL_DATA, INITIAL_META].iter().enumerate() {
            let slot = &mut senders.entry(from.0).or_default()[which];
            if bytes.starts_with(initial) {
                slot.get_or_insert_with(|| bytes.clone());
            } else if answers.starts_with(initial) {
                slot.get_or_insert_with(|| [initial, bytes.as_slice()].concat());
            }
        }
    }
    let both = senders.into_values().filter_map(|[data, meta]| Some([data?, meta?]));
    both.map(|streams| {
        streams.map(|mut bytes| {
            bytes.truncate(CONVERSATION_BYTES);
            bytes
        })
    })
    .collect()
}

/// The bytes of each direction of each connection: classic pcap, Ethernet, IPv4, TCP. What was sent twice is kept once;
/// seeds need not be more exact than that.
fn flows(capture: &[u8]) -> BTreeMap<(End, End), Vec<u8>> {
    let mut flows: BTreeMap<(End, End), (Option<u32>, Vec<u8>)> = BTreeMap::new();
    let mut rest = capture.get(24..).unwrap_or_default();
    while let Some((header, more)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, more)) = more.split_at_checked(length) else { break };
        rest = more;
        if let Some((ends, sequence, data)) = segment(frame) {
            let (next, bytes) = flows.entry(ends).or_default();
            if next.is_none_or(|next| next == sequence) {
                *next = Some(sequence.wrapping_add(u32::try_from(data.len()).unwrap_or(0)));
                bytes.extend_from_slice(data);
            }
        }
    }
    flows.into_iter().map(|(ends, (_, bytes))| (ends, bytes)).collect()
}

/// Sender, receiver, sequence number and data of a segment that has data.
fn segment(frame: &[u8]) -> Option<((End, End), u32, &[u8])> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let tcp = 14 + usize::from(*frame.get(14)? & 0x0f) * 4;
    let end = 14 + usize::from(u16_at(16)?);
    let data = frame.get(tcp + usize::from(*frame.get(tcp + 12)? >> 4) * 4..end)?;
    let ends = ((u32_at(26)?, u16_at(tcp)?), (u32_at(30)?, u16_at(tcp + 2)?));
    (!data.is_empty()).then_some((ends, u32_at(tcp + 4)?, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capture_has_both_streams_of_a_node() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(GOLDEN).join("wire");
        for path in files(&folder, "pcap").unwrap() {
            let found = conversations(&fs::read(&path).unwrap());
            assert!(!found.is_empty(), "{}", path.display());
            assert!(found.iter().flatten().all(|stream| stream.len() >= 8), "{}", path.display());
        }
    }

    #[test]
    fn every_image_has_a_superblock_and_most_have_more() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(GOLDEN).join("metadata");
        let images = images(&folder).unwrap();
        assert!(images.iter().all(|image| image.superblock.len() == PAGE_BYTES));
        assert!(images.iter().filter(|image| image.ring.len() == RING_BYTES).count() > 20);
        assert!(images.iter().filter(|image| image.bitmap.iter().any(|&byte| byte != 0)).count() > 5);
    }

    #[test]
    fn a_script_is_a_list_of_numbered_pieces() {
        assert_eq!(script([(1, &b"ab"[..]), (0, &b""[..])].into_iter()), b"\x01\x02\0ab\0\0\0");
    }
}
