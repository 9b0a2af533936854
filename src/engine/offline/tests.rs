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
    NewMetadata::plain(format, max_peers)
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
fn a_file_system_is_spared_although_the_end_of_its_device_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    poke(&place, 0, &xfs_of(DEVICE_BYTES));
    let device = Device::open(&place, false).unwrap();
    let layout = device.layout(Format::V09, 1, Striping::default(), 4096).unwrap();
    // What is behind the end of a file cannot be read, as what a bad sector holds.
    std::fs::File::options().write(true).open(&place.path).unwrap().set_len(1 << 20).unwrap();
    let error = bulk::run(device.check_free(&layout, true)).unwrap().unwrap_err();
    assert!(matches!(error, OfflineError::CutOff { .. }), "{error}");
    poke(&place, 0, &[0; 4096]);
    bulk::run(device.check_free(&layout, true)).unwrap().unwrap();
    let error = bulk::run(device.check_free(&layout, false)).unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 20, "{error}");
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
    assert_eq!(apply_al_md(&place).unwrap(), Said::default());
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

#[test]
fn nothing_that_would_be_overwritten_is_overlooked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let place = MetadataPlace { path, placement: Placement::Internal };
    // The bitmap of 1 TiB begins 32 MiB before the end.
    let at = (1 << 40) - (16 << 20);
    poke(&place, at, &[7; 65536]);
    let error = create_md(&place, &new(Format::V09, 1)).unwrap_err();
    let expected = format!("there is unrecognised data at byte {at}");
    assert_eq!((error.exit_code(), error.to_string().contains(&expected)), (40, true), "{error}");
    create_md(&place, &NewMetadata { force: true, ..new(Format::V09, 1) }).unwrap();
}

#[test]
fn a_file_is_looked_at_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    poke(&place, 20 << 20, &[1]);
    let error = create_md(&place, &new(Format::V09, 1)).unwrap_err();
    assert!(error.to_string().contains("unrecognised data at byte 20971520"), "{error}");
}

#[test]
fn metadata_at_the_former_end_of_a_file_that_grew_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    create_md(&place, &new(Format::V09, 1)).unwrap();
    std::fs::File::options().write(true).open(&place.path).unwrap().set_len(2 * DEVICE_BYTES).unwrap();
    let error = create_md(&place, &new(Format::V09, 1)).unwrap_err();
    assert_eq!(error.exit_code(), 40, "{error}");
}

#[test]
fn metadata_of_other_versions_is_named_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (magic, words) in [
        (0x8374_026E_u32, "metadata of a newer version (magic 0x8374026e)"),
        (0x8374_02FF, "metadata of a newer version (magic 0x837402ff)"),
        (0x8374_026A, "metadata of an older version (v07 or before, magic 0x8374026a)"),
        (0x8374_0300, "no metadata found (magic 0x83740300)"),
    ] {
        let place = place(&directory);
        poke(&place, DEVICE_BYTES - 4096 + 0x3C, &magic.to_be_bytes());
        let error = dump_md(&place, true).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().contains(words)), (1, true), "{error}");
        let error = create_md(&place, &NewMetadata { format: None, ..new(Format::V08, 1) }).unwrap_err();
        let expected = if magic == 0x8374_0300 { "unrecognised data" } else { "DRBD metadata of another version" };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn without_a_format_the_one_that_is_there_is_kept_even_if_it_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    let keep = NewMetadata { format: None, force: true, ..new(Format::V09, 1) };
    create_md(&place, &new(Format::V08, 1)).unwrap();
    create_md(&place, &keep).unwrap();
    assert!(dump_md(&place, false).unwrap().contains("version \"v08\""));
    poke(&place, DEVICE_BYTES - 4096 + 0x44, &[1]);
    assert_eq!(dump_md(&place, false).unwrap_err().exit_code(), 1);
    create_md(&place, &keep).unwrap();
    assert!(dump_md(&place, false).unwrap().contains("version \"v08\""));
    let daemon = crate::io::block_file::BlockFile::open(&place.path, Default::default()).unwrap();
    daemon.lock().unwrap();
    assert_eq!(create_md(&place, &keep).unwrap_err().exit_code(), 20, "the lock is not overlooked");
    drop(daemon);
    wipe_md(&place).unwrap();
    create_md(&place, &keep).unwrap();
    assert!(dump_md(&place, false).unwrap().contains("version \"v09\""));
}

#[test]
fn slots_of_a_shared_device_are_independent_of_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let first = MetadataPlace { placement: Placement::Indexed(0), ..place(&directory) };
    let second = MetadataPlace { placement: Placement::Indexed(1), ..first.clone() };
    let error = create_md(&second, &new(Format::V08, 1)).unwrap_err();
    assert!(error.to_string().contains("too small for metadata in slot 1"), "{error}");
    std::fs::File::options().write(true).open(&first.path).unwrap().set_len(256 << 20).unwrap();
    create_md(&first, &new(Format::V08, 1)).unwrap();
    create_md(&second, &new(Format::V09, 1)).unwrap();
    for place in [&first, &second] {
        assert_eq!(create_md(place, &new(Format::V08, 1)).unwrap_err().exit_code(), 1);
        dump_md(place, false).unwrap();
    }
    // A daemon runs on one slot: the other one is free all the same.
    let claim = crate::io::block_file::Claim::Part { start: 0, bytes: 128 << 20 };
    let mode = crate::io::block_file::Mode { claim, ..Default::default() };
    let daemon = crate::io::block_file::BlockFile::open(&first.path, mode).unwrap();
    daemon.lock().unwrap();
    for verb in [get_gi, show_gi] {
        assert_eq!(verb(&first, 0).unwrap_err().exit_code(), 20);
        verb(&second, 0).unwrap();
    }
    wipe_md(&second).unwrap();
    let whole = MetadataPlace { placement: Placement::FlexibleExternal, ..first.clone() };
    assert_eq!(get_gi(&whole, 0).unwrap_err().exit_code(), 20);
    drop(daemon);
    // Who has the whole device has slot 1, too.
    wipe_md(&first).unwrap();
    poke(&first, 0, &xfs_of(1 << 20));
    let error = create_md(&second, &new(Format::V08, 1)).unwrap_err();
    assert!(error.to_string().contains("would destroy"), "{error}");
}
