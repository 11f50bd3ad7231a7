//! A test that cannot fail shows nothing: every wrong of an answer is found.

use crate::rig::answer::{Answer, Choice};
use crate::rig::load::{DEMO, Request};
use crate::rig::verdict::Verdict;

fn good(request: &Request) -> Answer {
    let choice = Choice {
        tokens: vec![1, 2, 3],
        text: "one two".to_owned(),
        logprobs: ["-0.5", "-0.25", "-1.5"].map(str::to_owned).to_vec(),
        finishes: vec!["length".to_owned()],
    };
    let choices = vec![choice; request.choices];
    Answer { choices, usages: vec![[4, 3]], dones: 1, ..Answer::default() }
}

/// Whether an answer failed, was truncated, or differs.
fn complaints(request: &Request, spoil: impl FnOnce(&mut Answer)) -> [usize; 3] {
    let expected = good(request);
    let mut answer = expected.clone();
    spoil(&mut answer);
    let mut verdict = Verdict::default();
    verdict.add(request, &expected, &answer);
    [verdict.failed, verdict.truncated, verdict.differing].map(|complaints| complaints.len())
}

#[test]
fn every_wrong_of_an_answer_is_found() {
    let requests = DEMO.requests(0);
    // With three choices.
    let request = &requests[2];
    let last = |answer: &mut Answer| answer.choices.pop().expect("three");
    let failed = |spoil: fn(&mut Answer)| complaints(request, spoil) == [1, 0, 0];
    let truncated = |spoil: fn(&mut Answer)| complaints(request, spoil) == [0, 1, 0];
    let differing = |spoil: fn(&mut Answer)| complaints(request, spoil) == [0, 0, 1];

    assert_eq!(complaints(request, |_| ()), [0; 3], "nothing is wrong");
    assert!(failed(|answer| answer.errors.push("error event".to_owned())));
    assert!(truncated(|answer| answer.dones = 0));
    assert!(truncated(|answer| answer.dones = 2));
    assert!(truncated(|answer| answer.usages.clear()));
    assert!(truncated(|answer| answer.choices[1].finishes.clear()));
    assert!(truncated(|answer| answer.choices[1].finishes.push("stop".to_owned())));
    assert_eq!(complaints(request, |answer| drop(last(answer))), [0, 1, 0]);
    assert!(differing(|answer| answer.choices[2].tokens[1] = 9));
    assert!(differing(|answer| answer.choices[2].tokens.push(3)), "a token twice");
    assert!(differing(|answer| answer.choices[0].tokens.truncate(2)), "a token lost");
    assert!(differing(|answer| answer.choices[0].logprobs[2] = "-1.51".to_owned()));
    assert!(differing(|answer| answer.choices[0].text.push('!')));
    assert!(differing(|answer| answer.choices[0].finishes = vec!["stop".to_owned()]));
    assert!(differing(|answer| answer.usages = vec![[4, 4]]));
}
