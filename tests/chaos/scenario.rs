//! One fault at a time under a full load, and what has to hold then.

use std::time::Duration;

use crate::rig::answer::Answer;
use crate::rig::cluster::Cluster;
use crate::rig::fault::Fault;
use crate::rig::load::{Model, Request, STREAMS, play, play_on};
use crate::rig::patience::{await_for, wait_until};
use crate::rig::verdict::Verdict;

/// Tokens that the clients have before something happens: some requests are in their prefill, and
/// most are not.
const BEFORE_THE_FAULT: usize = 250;

/// How long ranks of an older epoch may run after the fault was made good and all serve: until they
/// have found the head and heard that it does not want them.
const STRAYS: Duration = Duration::from_secs(8);

/// When a fault is made good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heal {
    /// When the cluster has seen it. Nobody else can serve.
    OnceSeen,
    /// When all requests have ended: those that are left have to do.
    AfterTheLoad,
}

/// A cluster under load.
pub(crate) struct Scenario {
    pub(crate) cluster: Cluster,
    requests: Vec<Request>,
    /// The answers of the undisturbed cluster.
    expected: Vec<Answer>,
}

// === impl Scenario ===

impl Scenario {
    /// Gets the answers of the undisturbed cluster.
    pub(crate) fn open(model: &Model, cluster: Cluster) -> Self {
        let requests = model.requests(0);
        let (expected, ()) = play(&requests, cluster.api, |_| ());
        let verdict = Verdict::of(&requests, &expected, &expected);
        assert!(verdict.is_clean(), "undisturbed: {verdict}{}", cluster.logs());
        Self { cluster, requests, expected }
    }

    /// Runs `happen` during the load, and asserts that it costs no client a token (**G1**, **G2**).
    pub(crate) fn during_the_load<T>(&mut self, happen: impl FnOnce(&mut Cluster) -> T) -> T {
        let Self { cluster, requests, expected } = self;
        let (answers, result) = play_on(requests, cluster.api, |progress| {
            progress.wait_for_tokens(BEFORE_THE_FAULT);
            happen(cluster)
        });
        let verdict = Verdict::of_all(requests, expected, &answers);
        assert!(verdict.is_clean(), "{verdict}{}", cluster.logs());
        result
    }

    /// A fault in the midst of the load costs nobody anything, is seen in time (**G3**), and leaves
    /// nothing behind (**G5**).
    pub(crate) fn withstands(&mut self, fault: &Fault, heal: Heal) {
        let seen = self.during_the_load(|cluster| {
            let before = cluster.epochs();
            fault.strike(cluster);
            let seen = await_for(fault.seen_within(), || cluster.epochs() != before);
            if heal == Heal::OnceSeen {
                fault.heal(cluster);
            }
            seen
        });
        let limit = fault.seen_within();
        assert!(seen.is_ok(), "{fault:?} was not seen within {limit:?}{}", self.cluster.logs());
        if heal == Heal::AfterTheLoad {
            fault.heal(&mut self.cluster);
        }
        let back = self.goes_on();
        println!("{fault:?}: seen after {seen:?}, whole again {back:?} after the last answer");
    }

    /// The head dies in the midst of the load, with what else there is, and is started again. Its
    /// streams end with it, and nobody takes that for a whole answer; what comes afterwards is
    /// answered as before (**G2**, **G5**).
    pub(crate) fn outlives_its_head(&mut self, with_it: &[Fault]) {
        self.outlives_its_head_while(with_it, |_| ());
    }

    /// As [`outlives_its_head`](Self::outlives_its_head), and something happens `meanwhile`.
    pub(crate) fn outlives_its_head_while(
        &mut self,
        with_it: &[Fault],
        meanwhile: impl FnOnce(&Cluster),
    ) {
        let Self { cluster, requests, expected } = self;
        let (answers, ()) = play_on(requests, cluster.api, |progress| {
            progress.wait_for_tokens(BEFORE_THE_FAULT);
            with_it.iter().for_each(|fault| fault.strike(cluster));
            cluster.kill_head();
            meanwhile(cluster);
            cluster.start_head();
        });
        let verdict = Verdict::of_all(requests, expected, &answers);
        // All were under way, but for whom its machine let ask only when the next head was there.
        let cut = verdict.failed.len() + verdict.truncated.len();
        assert!(cut > STREAMS / 2, "{cut} were cut: {verdict}");
        assert!(verdict.differing.is_empty(), "{verdict}{}", cluster.logs());
        with_it.iter().for_each(|fault| fault.heal(cluster));
        let back = self.goes_on();
        println!("SIGKILL of the head and {with_it:?}: whole again {back:?} after it serves");
    }

    /// The head is stopped in the midst of the load, and is started again. Its streams come to their ends;
    /// what is asked afterwards is told that it drains, or finds nobody (**G4**).
    pub(crate) fn sees_its_head_stop(&mut self) {
        let Self { cluster, requests, expected } = self;
        let (answers, code) = play_on(requests, cluster.api, |progress| {
            progress.wait_for_tokens(BEFORE_THE_FAULT);
            let code = cluster.stop_head();
            cluster.start_head();
            code
        });
        assert_eq!(code, Some(0), "{}", cluster.logs());
        let late = |answer: &Answer| {
            let why = answer.failure().unwrap_or_default();
            let told = why.contains("draining") || why.contains("Connection refused");
            told && answer.choices.is_empty()
        };
        let of_stream = |answers: Vec<Answer>| answers.into_iter().filter(|it| !late(it)).collect();
        let answers: Vec<Vec<Answer>> = answers.into_iter().map(of_stream).collect();
        assert!(answers.iter().all(|it| !it.is_empty()), "every stream was under way");
        let verdict = Verdict::of_all(requests, expected, &answers);
        assert!(verdict.is_clean(), "{verdict}{}", cluster.logs());
        let back = self.goes_on();
        println!("SIGTERM of the head: whole again {back:?} after it serves");
    }

    /// All replicas come back with nothing held, and answer as before.
    pub(crate) fn goes_on(&self) -> Duration {
        let Self { cluster, requests, expected } = self;
        let back = wait_until("all replicas serve", || cluster.all_serve());
        wait_until("nothing is held", || cluster.is_empty());
        // Processes of older epochs hold memory that those of this one need.
        let alone = await_for(STRAYS, || cluster.strays().is_empty());
        assert!(alone.is_ok(), "{:?} still run{}", cluster.strays(), cluster.logs());
        wait_until("no join has left anything", || cluster.shared_memory().is_empty());
        let some = requests.len() / 4;
        let (again, ()) = play(&requests[..some], cluster.api, |_| ());
        let verdict = Verdict::of(&requests[..some], &expected[..some], &again);
        assert!(verdict.is_clean(), "afterwards: {verdict}{}", cluster.logs());
        back
    }

    /// Nothing is left when it is over.
    pub(crate) fn close(self) {
        self.cluster.close();
    }
}
