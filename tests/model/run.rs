//! Running a model to its end, and what is asked of the run.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Situations that a model is there for. A run that never comes to one proves nothing of it.
#[derive(Debug, Default)]
pub struct Windows(AtomicU64);

impl Windows {
    /// This one was come to.
    pub fn hit(&self, window: u32) {
        self.0.fetch_or(1 << window, Ordering::Relaxed);
    }

    fn was_hit(&self, window: usize) -> bool {
        self.0.load(Ordering::Relaxed) >> window & 1 == 1
    }
}

/// A model of this folder.
pub trait Modelled: Model<State: State, Action: Action> + Send + Sync + 'static {
    /// The names of its windows, in the order of their numbers.
    const WINDOWS: &'static [&'static str];

    /// Which of them were come to.
    fn windows(&self) -> &Windows;
}

pub trait State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static {}
impl<S: Clone + Debug + Hash + PartialEq + Send + Sync + 'static> State for S {}
pub trait Action: Clone + Debug + PartialEq + Send + Sync + 'static {}
impl<A: Clone + Debug + PartialEq + Send + Sync + 'static> Action for A {}

/// Explores every state: no property is broken, and each `sometimes` was come to. Gives the windows
/// that were come to.
pub fn holds<M: Modelled>(name: &str, model: impl Fn() -> M) -> BTreeSet<&'static str> {
    let begun = Instant::now();
    let checker = model().checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f32(),
    );
    for property in checker.model().properties() {
        match (&property.expectation, checker.discovery(property.name)) {
            (Expectation::Always, Some(_)) => {
                let (actions, _) = shortest(&model, property.name).unwrap_or_default();
                panic!("{name}: {} is broken by {actions:?}", property.name)
            }
            (Expectation::Sometimes, None) => panic!("{name}: never {}", property.name),
            _ => {}
        }
    }
    let hit = |(window, name)| checker.model().windows().was_hit(window).then_some(name);
    M::WINDOWS.iter().copied().enumerate().filter_map(hit).collect()
}

/// What is missing of the windows of a model after these runs.
pub fn missed<M: Modelled>(runs: &[BTreeSet<&'static str>]) -> Vec<&'static str> {
    let hit = |name: &&str| runs.iter().any(|run| run.contains(name));
    M::WINDOWS.iter().copied().filter(|name| !hit(name)).collect()
}

/// A bad design is switched on: these properties are broken by it. Prints how.
pub fn breaks<M: Modelled>(name: &str, model: impl Fn() -> M, expected: &[&'static str]) {
    for property in expected {
        let Some((actions, states)) = shortest(&model, property) else {
            panic!("{name}: {property} still holds")
        };
        let steps = actions.len();
        println!("{name}: breaks {property} in {steps} steps ({states} states): {actions:?}");
    }
}

/// A shortest way to a state where the property does not hold, and how many states were seen.
fn shortest<M: Modelled>(
    model: impl Fn() -> M,
    property: &'static str,
) -> Option<(Vec<M::Action>, usize)> {
    let mut found = None;
    let mut deepest = usize::MAX;
    loop {
        // A run goes on for a while behind the first that it finds, and keeps the last: so again,
        // not as deep.
        let wanted = HasDiscoveries::AllOf(BTreeSet::from([property]));
        let checker = model().checker().threads(1).finish_when(wanted);
        let checker = checker.target_max_depth(deepest).spawn_bfs().join();
        let Some(path) = checker.discovery(property) else { return found };
        let actions = path.into_actions();
        deepest = actions.len() + 1;
        found = Some((actions, checker.unique_state_count()));
    }
}
