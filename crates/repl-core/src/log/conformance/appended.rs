//! What is appended and not yet durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Subject, content, drain, filled, fragment, position, push_body, push_tx, read, transactions,
};
use crate::log::{EventLog, LogError, Reader, Visibility};
use crate::position::Seq;
use crate::record::{Body, RecordKind};

pub(super) fn run(make: &dyn Fn() -> Subject) {
    followers_see_what_is_appended(&make());
    followers_never_see_what_is_abandoned(&make());
    append_listeners_hear_of_every_end(&make());
}

fn follow(log: &dyn EventLog, after: u64) -> Box<dyn Reader> {
    log.follow(Seq(after), Visibility::Appended).unwrap()
}

fn followers_see_what_is_appended(subject: &Subject) {
    let log = &subject.log;
    let mut appender = filled(log.as_ref(), 5);
    let mut follower = follow(log.as_ref(), 3);
    let mut seen = transactions(&drain(follower.as_mut()));
    for seq in 6..=40 {
        push_tx(appender.as_mut(), seq);
        assert_eq!(log.appended().seq, Seq(seq));
        assert_eq!(log.appended().position, position(seq));
        assert_eq!(
            log.point(Seq(seq)).unwrap().map(|point| point.position),
            Some(position(seq))
        );
        // Sometimes one by one, sometimes across a flush.
        if seq % 3 != 1 {
            seen.extend(transactions(&drain(follower.as_mut())));
        }
        if seq % 5 == 0 {
            log.flush().unwrap();
        }
    }
    push_tx(appender.as_mut(), 41);
    seen.extend(transactions(&drain(follower.as_mut())));
    let wanted: Vec<_> = (4..=41).map(|seq| (seq, content(seq))).collect();
    assert_eq!(seen, wanted);
    assert_eq!(
        log.bounds().durable.seq,
        Seq(40),
        "nothing of it is durable"
    );
    assert_eq!(transactions(&read(log.as_ref(), 38)).len(), 2);
    assert_eq!(
        transactions(&drain(follow(log.as_ref(), 40).as_mut())).len(),
        1
    );
    assert!(drain(follow(log.as_ref(), 41).as_mut()).is_empty());
    let mut reader = follow(log.as_ref(), 35);
    assert!(reader.behind() > 0);
    reader.next().unwrap();
    let mut fork = reader.fork();
    assert_eq!(drain(fork.as_mut()), drain(reader.as_mut()));
    assert_eq!(fork.behind(), 0);
    assert!(matches!(
        log.follow(Seq(42), Visibility::Appended),
        Err(LogError::Beyond {
            wanted: Seq(42),
            last: Seq(41)
        })
    ));
    assert!(matches!(log.reader(Seq(41)), Err(LogError::Beyond { .. })));
}

fn followers_never_see_what_is_abandoned(subject: &Subject) {
    let log = &subject.log;
    let mut appender = filled(log.as_ref(), 2);
    let mut follower = follow(log.as_ref(), 0);
    assert_eq!(transactions(&drain(follower.as_mut())).len(), 2);
    push_tx(appender.as_mut(), 3);
    for flushed in [false, true] {
        let open = fragment(Some(7), None, b"void");
        appender
            .push(RecordKind::Fragment, Seq(4), false, &open)
            .unwrap();
        assert_eq!(
            log.appended().seq,
            Seq(3),
            "an open transaction is not whole"
        );
        if flushed {
            log.flush().unwrap();
        }
        let seen = transactions(&drain(follower.as_mut()));
        assert_eq!(seen.len(), usize::from(!flushed), "{seen:?}");
        appender.abandon().unwrap();
        assert_eq!(log.point(Seq(4)).unwrap(), None);
    }
    push_tx(appender.as_mut(), 4);
    let seen = transactions(&drain(follower.as_mut()));
    assert_eq!(seen, [(4, content(4))]);
}

fn append_listeners_hear_of_every_end(subject: &Subject) {
    let log = &subject.log;
    let mut appender = filled(log.as_ref(), 1);
    let heard = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&heard);
    log.on_appended(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    push_tx(appender.as_mut(), 2);
    assert_eq!(heard.load(Ordering::Relaxed), 1);
    let (open, end) = (fragment(Some(7), None, b"a"), fragment(None, Some(3), b"b"));
    appender
        .push(RecordKind::Fragment, Seq(3), false, &open)
        .unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), 1, "nothing ended");
    appender
        .push(RecordKind::Fragment, Seq(3), true, &end)
        .unwrap();
    push_body(appender.as_mut(), &Body::Mark(position(9))).unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), 3);
    assert_eq!(log.appended().position, position(9));
}
