//! The verbs against files.

use std::io::{Seek, SeekFrom, Write};

use super::*;

const DEVICE_BYTES: u64 = 64 << 20;

fn place(directory: &tempfile::TempDir) -> MetadataPlace {
    let path = directory.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(DEVICE_BYTES).unwrap();
    MetadataPlace { path, placement: Placement::Internal }
}

fn new(format: Format, max_peers: u32) -> NewMetadata {
    NewMetadata { format, max_peers, striping: Striping::default(), force: false }
}

fn poke(place: &MetadataPlace, offset: u64, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).open(&place.path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn new_metadata_says_that_the_data_is_unrelated_to_anything() {
    for (format, max_peers, line) in [
        (Format::V08, 1, "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0\n"),
        (
            Format::V09,
            3,
            "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:1:0:0:0:0:0:0:0\n",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let place = place(&directory);
        let error = get_gi(&place, 0).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
        create_md(&place, &new(format, max_peers)).unwrap();
        assert_eq!(get_gi(&place, usize::from(format == Format::V09)).unwrap(), line);
        assert!(show_gi(&place, 0).unwrap().contains("clean"));
    }
}

#[test]
fn what_is_there_is_overwritten_only_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    create_md(&place, &new(Format::V08, 1)).unwrap();
    let error = create_md(&place, &new(Format::V09, 2)).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("DRBD metadata (v08)")), (1, true), "{error}");
    create_md(&place, &NewMetadata { force: true, ..new(Format::V09, 2) }).unwrap();
    wipe_md(&place).unwrap();
    assert_eq!(get_gi(&place, 0).unwrap_err().exit_code(), 1);
    poke(&place, 0, b"XFSB");
    let error = create_md(&place, &NewMetadata { force: false, ..new(Format::V08, 1) }).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("XFS")), (40, true), "{error}");
}

/// An XFS superblock of 4 KiB blocks that take so many bytes, which is all that is looked at.
fn xfs_of(bytes: u64) -> Vec<u8> {
    [&b"XFSB"[..], &4096_u32.to_be_bytes(), &(bytes / 4096).to_be_bytes()].concat()
}

#[test]
fn not_even_force_cuts_off_the_end_of_a_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    let forced = NewMetadata { force: true, ..new(Format::V09, 1) };
    // Superblock, log and bitmap take 40 KiB at the end.
    let usable_bytes = DEVICE_BYTES - (40 << 10);
    poke(&place, 0, &xfs_of(usable_bytes + 4096));
    for new in [forced, new(Format::V09, 1)] {
        let error = create_md(&place, &new).unwrap_err();
        let expected = "there is an XFS file system of 65500 KiB; internal metadata would leave 65496 KiB";
        assert_eq!((error.exit_code(), error.to_string().contains(expected)), (40, true), "{error}");
        assert_eq!(get_gi(&place, 1).unwrap_err().exit_code(), 1, "nothing was written");
    }
    poke(&place, 0, &xfs_of(usable_bytes));
    assert_eq!(create_md(&place, &new(Format::V09, 1)).unwrap_err().exit_code(), 40, "it fits, but nobody was asked");
    create_md(&place, &forced).unwrap();
    let more = NewMetadata { max_peers: 31, ..forced };
    assert_eq!(create_md(&place, &more).unwrap_err().exit_code(), 40, "more slots take more room");
    let dump = dump_md(&place, true).unwrap();
    poke(&place, 0, &xfs_of(DEVICE_BYTES));
    assert_eq!(restore_md(&place, &dump, true).unwrap_err().exit_code(), 40);
}

#[test]
fn not_even_force_puts_external_metadata_over_a_file_system() {
    let directory = tempfile::tempdir().unwrap();
    for placement in [Placement::FlexibleExternal, Placement::Indexed(0)] {
        let place = MetadataPlace { placement, ..place(&directory) };
        std::fs::File::options().write(true).open(&place.path).unwrap().set_len(128 << 20).unwrap();
        poke(&place, 0, &xfs_of(1 << 20));
        let error = create_md(&place, &NewMetadata { force: true, ..new(Format::V08, 1) }).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().contains("would destroy")), (40, true), "{error}");
        poke(&place, 0, &[1; 4096]);
        create_md(&place, &NewMetadata { force: true, ..new(Format::V08, 1) }).unwrap();
    }
}

#[test]
fn a_dump_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    create_md(&place, &new(Format::V08, 1)).unwrap();
    let line = "1234567890ABCDEE:0000000000000000:1111111111111110:2222222222222220:1:1:0:0:0:0:0";
    assert!(set_gi(&place, 0, line).unwrap().ends_with(&format!("set GI to  {line}\n")));
    let text = dump_md(&place, false).unwrap().replace("la-size-sect 0;", "la-size-sect 100000;");
    assert!(text.contains("0x1234567890ABCDEE"), "{text}");
    let text = text.replace("bm {\n", "bm {\n    0x0000000000000001; 0x8000000000000000;\n");
    assert_eq!(restore_md(&place, &text, false).unwrap_err().exit_code(), 1);
    restore_md(&place, &text, true).unwrap();
    let again = dump_md(&place, false).unwrap();
    assert!(again.contains("0x0000000000000001; 0x8000000000000000;"), "{again}");
    assert!(again.contains("# bits-set 2;"), "{again}");
    restore_md(&place, &again, true).unwrap();
    assert_eq!(dump_md(&place, false).unwrap(), again);
    assert_eq!(restore_md(&place, "nonsense", true).unwrap_err().exit_code(), 10);
}

#[test]
fn unclean_metadata_is_dumped_only_by_force_and_cleaned_by_applying_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    create_md(&place, &new(Format::V08, 1)).unwrap();
    change(&place, |superblock, _| {
        superblock.set_clean(false);
        superblock.flags.insert(DeviceFlags::PRIMARY_IND);
        Ok(String::new())
    })
    .unwrap();
    assert_eq!(dump_md(&place, false).unwrap_err().exit_code(), 1);
    let text = dump_md(&place, true).unwrap();
    assert_eq!(restore_md(&place, &text, true).unwrap_err().exit_code(), 10, "nobody restores that");
    assert_eq!(apply_al_md(&place).unwrap(), "");
    dump_md(&place, false).unwrap();
    assert_eq!(outdate(&place).unwrap_err().exit_code(), 5);
}

#[test]
fn a_device_in_use_is_refused_with_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    let daemon = crate::io::block_file::BlockFile::open(&place.path, Default::default()).unwrap();
    daemon.lock().unwrap();
    let error = create_md(&place, &new(Format::V08, 1)).unwrap_err();
    assert_eq!(error.exit_code(), 20);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}
