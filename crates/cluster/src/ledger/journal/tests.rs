//! **J-1** to **J-6**, on real files.

use proptest::prelude::*;

use super::*;
use crate::ledger::folder::Folder;

fn records(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n; usize::from(n) * 7 % 50]).collect()
}

/// A journal of `count` records, closed; its bytes.
fn written(folder: &Folder, count: u8) -> Vec<u8> {
    let (mut journal, before) = Journal::open(folder.path()).expect("a new journal");
    assert!(before.is_empty());
    for record in records(count) {
        journal.append(&[&record]).expect("there is room");
    }
    drop(journal);
    fs::read(folder.path().join("journal")).expect("it is there")
}

/// J-1
#[test]
fn what_was_appended_is_there_when_it_is_opened_again() {
    let folder = Folder::new();
    written(&folder, 20);
    let (mut journal, before) = Journal::open(folder.path()).expect("it opens");
    assert_eq!(before, records(20));
    journal.append(&[b"one more"]).expect("there is room");
    drop(journal);
    let (_, after) = Journal::open(folder.path()).expect("it opens");
    assert_eq!(after[..20], before);
    assert_eq!(after[20..], [b"one more"]);
}

/// J-3
#[test]
fn a_second_holder_is_refused_until_the_first_lets_go() {
    let folder = Folder::new();
    let (first, _) = Journal::open(folder.path()).expect("a new journal");
    let refused = Journal::open(folder.path()).expect_err("it is in use").to_string();
    assert!(refused.contains("in use by another head"), "{refused}");
    drop(first);
    Journal::open(folder.path()).expect("it is free");
}

/// J-6
#[test]
fn a_deleted_or_replaced_file_takes_no_record_until_it_is_rewritten() {
    let folder = Folder::new();
    let (mut journal, _) = Journal::open(folder.path()).expect("a new journal");
    journal.append(&[b"one"]).expect("there is room");
    let path = folder.path().join("journal");
    let replace = || {
        fs::copy(&path, folder.path().join("copy")).expect("there is room");
        fs::rename(folder.path().join("copy"), &path).expect("of one folder");
    };
    let delete = || fs::remove_file(&path).expect("it is there");
    for lose in [&delete as &dyn Fn(), &replace] {
        assert!(!journal.is_lost());
        lose();
        assert!(journal.is_lost());
        let refused = journal.append(&[b"two"]).expect_err("nobody would find it").to_string();
        assert!(refused.contains("journal was deleted or replaced"), "{refused}");
        journal.rewrite(&[b"one".to_vec()]).expect("there is room");
    }
    journal.append(&[b"two"]).expect("there is room");
    drop(journal);
    let (_, records) = Journal::open(folder.path()).expect("it opens");
    assert_eq!(records, [b"one", b"two"]);
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let folder = Folder::new();
    for text in ["PLAYJNL3", "dear diary", "PLAYJ\n"] {
        fs::write(folder.path().join("journal"), text).expect("the folder can be written");
        let refused = Journal::open(folder.path()).expect_err(text).to_string();
        assert!(refused.contains("is not a journal of this version"), "{refused}");
        let left = fs::read(folder.path().join("journal")).expect("it is there");
        assert_eq!(left, text.as_bytes());
    }
}

/// J-2
#[test]
fn wherever_it_is_cut_a_prefix_is_left_and_it_goes_on() {
    let folder = Folder::new();
    let bytes = written(&folder, 12);
    for length in 0..bytes.len() {
        fs::write(folder.path().join("journal"), &bytes[..length]).expect("it can be written");
        let (mut journal, left) = Journal::open(folder.path()).expect("a cut is no error");
        assert!(left.len() < 12 && left[..] == records(12)[..left.len()], "{length}");
        journal.append(&[b"next"]).expect("there is room");
        drop(journal);
        let (_, after) = Journal::open(folder.path()).expect("it opens");
        assert_eq!(after, [&left[..], &[b"next".to_vec()]].concat(), "{length}");
    }
}

proptest! {
    /// J-2
    #[test]
    fn whatever_happens_to_its_bytes_a_prefix_is_left(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..4),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = MAGIC.to_vec();
        for record in records(12) {
            frame(&record, &mut bytes).expect("they are short");
        }
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        bytes.extend(tail);
        if let Ok((left, length)) = read(&bytes) {
            prop_assert!(left.len() <= 12 && left[..] == records(12)[..left.len()]);
            prop_assert!(length <= bytes.len() as u64);
        } else {
            prop_assert!(!bytes.starts_with(&MAGIC), "only another beginning is refused");
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(read(&bytes));
        drop(read(&[&MAGIC[..], &bytes].concat()));
    }
}

/// J-5
#[test]
fn rewriting_replaces_everything_and_appending_goes_on() {
    let folder = Folder::new();
    written(&folder, 20);
    let (mut journal, _) = Journal::open(folder.path()).expect("it opens");
    journal.rewrite(&records(3)).expect("there is room");
    journal.append(&[b"behind"]).expect("there is room");
    let refused = Journal::open(folder.path()).expect_err("J-3 holds for the new file");
    assert!(matches!(refused, JournalError::InUse(_)), "{refused}");
    drop(journal);
    let (_, after) = Journal::open(folder.path()).expect("it opens");
    assert_eq!(after, [&records(3)[..], &[b"behind".to_vec()]].concat());
    assert!(!folder.path().join("journal.new").exists());
}

/// J-5
#[test]
fn a_rewriting_that_fails_leaves_everything() {
    let folder = Folder::new();
    written(&folder, 20);
    let (mut journal, _) = Journal::open(folder.path()).expect("it opens");
    fs::create_dir(folder.path().join("journal.new")).expect("the folder can be written");
    journal.rewrite(&records(3)).expect_err("its place is taken");
    journal.append(&[b"behind"]).expect("there is room");
    drop(journal);
    let (_, after) = Journal::open(folder.path()).expect("it opens");
    assert_eq!(after, [&records(20)[..], &[b"behind".to_vec()]].concat());
}

#[test]
fn a_record_that_could_not_be_read_is_not_written() {
    let folder = Folder::new();
    let (mut journal, _) = Journal::open(folder.path()).expect("a new journal");
    let refused = journal.append(&[vec![0; RECORD_BYTES_MAX + 1]]).expect_err("it is too long");
    assert!(refused.to_string().contains("2097153 bytes"), "{refused}");
    journal.append(&[vec![0; RECORD_BYTES_MAX]]).expect("it is as long as may be");
    assert!(journal.is_long());
}
