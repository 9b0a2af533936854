//! Arbitrary text as a metadata dump: what is understood is printed so that it is understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shimai::metadata::dump::{get_gi, parse, set_gi, show_gi, write};
use shimai::metadata::layout::{Layout, Placement};
use shimai::metadata::superblock::Superblock;

/// A device on which any dump finds room for its metadata and few words of bitmap.
const DEVICE_BYTES: u64 = 64 << 20;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(dump) = parse(text) else { return };
    let fields = &dump.superblock;
    let _ = (get_gi(fields, 0), show_gi(fields, 0));
    let mut other = fields.clone();
    let _ = set_gi(&mut other, 0, text.lines().next().unwrap_or_default());
    let layout = Layout::compute(fields.format, Placement::Internal, DEVICE_BYTES, fields.max_peers, fields.striping);
    let Ok(layout) = layout else { return };
    let superblock = dump.superblock_for(&layout);
    let is_clean = superblock.is_clean();
    let words = dump.bitmap_for(&layout);
    let slots: Vec<&[u64]> = words.iter().map(Vec::as_slice).collect();
    let mut printed = String::new();
    write(&superblock, &layout, &slots, &mut printed).expect("a String takes all");
    match parse(&printed) {
        Ok(again) => {
            // Drbdmeta of 9.22 cannot read `members` back, so they are read and not printed.
            let expected = Superblock { members: 0, ..superblock };
            assert_eq!(again.superblock_for(&layout), expected, "fields come back as they went");
            assert_eq!(again.bitmap_for(&layout), words, "bits come back as they went");
        }
        Err(error) => assert!(!is_clean, "our own dump is refused: {error}\n{printed}"),
    }
});
