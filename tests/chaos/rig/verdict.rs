//! The faults that clients find in their answers.

use std::fmt;

use super::answer::Answer;
use super::load::Request;

/// The requests that did not get the answer of an undisturbed cluster, and the differences.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) asked: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) truncated: Vec<String>,
    pub(crate) differing: Vec<String>,
}

// === impl Verdict ===

impl Verdict {
    /// Compares answers with those of an undisturbed run.
    pub(crate) fn of(requests: &[Request], expected: &[Answer], answers: &[Answer]) -> Self {
        let mut verdict = Self::default();
        for ((request, expected), answer) in requests.iter().zip(expected).zip(answers) {
            verdict.add(request, expected, answer);
        }
        verdict
    }

    /// Compares all answers to each request, as [`of`](Self::of) does for one answer.
    pub(crate) fn of_all(
        requests: &[Request],
        expected: &[Answer],
        answers: &[Vec<Answer>],
    ) -> Self {
        let mut verdict = Self::default();
        for ((request, expected), answers) in requests.iter().zip(expected).zip(answers) {
            answers.iter().for_each(|answer| verdict.add(request, expected, answer));
        }
        verdict
    }

    /// Takes in one answer.
    pub(crate) fn add(&mut self, request: &Request, expected: &Answer, answer: &Answer) {
        self.asked += 1;
        if let Some(why) = answer.failure() {
            self.failed.push(why);
        } else if let Some(why) = answer.truncation(request.choices) {
            self.truncated.push(why);
        } else if let Some(why) = difference(expected, answer) {
            self.differing.push(format!("{why} of {}", request.body));
        }
    }

    /// Adds the complaints of another.
    pub(crate) fn join(&mut self, other: Self) {
        self.asked += other.asked;
        self.failed.extend(other.failed);
        self.truncated.extend(other.truncated);
        self.differing.extend(other.differing);
    }

    /// Nobody may complain.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.truncated.is_empty() && self.differing.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, failed, truncated, differing } = self;
        let [f1, t, d] = [failed, truncated, differing].map(Vec::len);
        writeln!(f, "{asked} asked, {f1} failed, {t} truncated, {d} differing")?;
        let complaints = failed.iter().chain(truncated).chain(differing);
        complaints.take(8).try_for_each(|complaint| writeln!(f, "  {complaint}"))
    }
}

/// The first thing that is not as it should be.
fn difference(expected: &Answer, answer: &Answer) -> Option<String> {
    let choices = expected.choices.iter().zip(&answer.choices).enumerate();
    for (index, (expected, choice)) in choices {
        if expected == choice {
            continue;
        }
        let same = expected.tokens.iter().zip(&choice.tokens).take_while(|(a, b)| a == b).count();
        let [should, is] = [&expected.tokens, &choice.tokens]
            .map(|all| (all.len(), all[same..].iter().take(4).copied().collect::<Vec<_>>()));
        return Some(format!(
            "choice {index}: {same} tokens are the same, then {is:?} instead of {should:?}; \
             logprobs are the same: {}, text: {}, finish: {:?}",
            expected.logprobs == choice.logprobs,
            expected.text == choice.text,
            choice.finishes
        ));
    }
    let [should, is] = [expected, answer].map(|answer| &answer.usages);
    (should != is).then(|| format!("usage {is:?} instead of {should:?}"))
}
