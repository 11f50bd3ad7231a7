use super::*;
use crate::host::memory::PAGE;

/// A ring of one page, with both its ends.
fn ring() -> (Arc<Memory>, Writer, Reader) {
    let memory = Memory::private(2 * PAGE).unwrap();
    let bells = [0, size_of::<Bell>()].map(|offset| memory.place(offset));
    let marks = 2 * size_of::<Bell>();
    let site = Site { marks, bytes: PAGE, capacity: PAGE };
    let [reads, writes] = bells;
    let (writer, reader) = (Writer::new(&memory, site, reads), Reader::new(&memory, site, writes));
    (memory, writer, reader)
}

/// **RI-1**
#[test]
fn bytes_come_once_in_order_and_only_after_they_were_published() {
    let (_memory, mut writer, mut reader) = ring();
    // Lengths that end at every place in the ring, and lie across its end.
    for round in 0..500usize {
        let message: Vec<u8> = (0..round * 13 % 3000).map(|byte| (byte + round) as u8).collect();
        assert!(writer.has_room(padded(message.len())));
        writer.put(&message);
        assert!(reader.available() == 0, "not published");
        writer.publish();
        assert_eq!(reader.available(), padded(message.len()));
        assert_eq!(reader.peek(0, message.len()).concat(), message);
        reader.consume(padded(message.len()));
    }
}

#[test]
fn a_full_ring_has_no_room_until_it_is_read() {
    let (_memory, mut writer, mut reader) = ring();
    writer.put(&[1; PAGE]);
    writer.publish();
    assert!(!writer.has_room(1));
    assert!(reader.has(PAGE));
    reader.consume(LINE);
    assert_eq!(writer.room(), LINE);
    assert!(!writer.has_room(LINE + 1));
}

/// **RI-2**
#[test]
fn counts_that_make_no_sense_lead_nowhere() {
    for nonsense in [1u64, PAGE as u64 + 1, u64::MAX, 1 << 63] {
        let (memory, mut writer, mut reader) = ring();
        let marks = memory.place::<Marks>(2 * size_of::<Bell>());
        marks.written.0.store(nonsense, Ordering::Release);
        assert!(reader.available() <= PAGE);
        marks.read.0.store(nonsense, Ordering::Release);
        assert!(writer.room() <= PAGE);
    }
}
