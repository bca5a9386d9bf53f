//! Does a model keep its properties, and if not, what is the shortest way to break one?

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Visits every state that can be reached. Panics, with the way to it, where a property does not hold, and
/// where something that should be possible is not: a model in which nothing happens keeps all promises.
pub fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq,
{
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        match (property.expectation, discoveries.get(property.name)) {
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                panic!("{name}: {:?} does not hold:\n{}", property.name, steps(path.clone().into_actions()))
            }
            (Expectation::Sometimes, None) => panic!("{name}: {:?} never comes about", property.name),
            _ => {}
        }
    }
    println!(
        "holds   {name:<48} {:>9} states, {:>2} deep {:>6.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
}

/// The fewest steps after which `property` does not hold any more. Panics if it always holds.
pub fn breaks<M>(name: &str, model: M, property: &'static str) -> usize
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq,
{
    let begun = Instant::now();
    model.property(property);
    let mut shortest: Option<Vec<M::Action>> = None;
    // The checker keeps the last one it met of a block of states, which may be a step longer than needed.
    loop {
        let mut checker = model.clone().checker().finish_when(HasDiscoveries::AllOf([property].into()));
        if let Some(found) = &shortest {
            checker = checker.target_max_depth(found.len() + 1);
        }
        match checker.spawn_bfs().join().discovery(property) {
            Some(path) => shortest = Some(path.into_actions()),
            None => break,
        }
    }
    let Some(found) = shortest else { panic!("{name} does not break {property:?}") };
    let seconds = begun.elapsed().as_secs_f64();
    println!("breaks  {name:<48} {property:?} after {} steps, {seconds:.1} s", found.len());
    println!("{}", steps(found.clone()));
    found.len()
}

/// From each state that can be reached there is a way to `goal` by steps that `happen` of themselves.
///
/// So each fair run without further faults gets there. (Stateright's own `eventually` overlooks runs that go in
/// circles, and protocols that wait do.) Panics with the way to the first state that has none.
pub fn arrives<M>(name: &str, model: &M, goal: impl Fn(&M::State) -> bool, happens: impl Fn(&M::Action) -> bool)
where
    M: Model,
    M::State: Clone + Eq + Hash,
    M::Action: Clone + std::fmt::Debug,
{
    let begun = Instant::now();
    let graph = Graph::of(model, happens);
    if let Some(way) = graph.first_dead_end(goal) {
        panic!("{name}: never gets on after:\n{}", steps(way));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("arrives {name:<48} {:>9} states          {seconds:>6.1} s", graph.states.len());
}

/// The fewest steps to a state without a way to `goal`. Panics if there is none.
pub fn strands<M>(
    name: &str,
    model: &M,
    goal: impl Fn(&M::State) -> bool,
    happens: impl Fn(&M::Action) -> bool,
) -> usize
where
    M: Model,
    M::State: Clone + Eq + Hash,
    M::Action: Clone + std::fmt::Debug,
{
    let Some(way) = Graph::of(model, happens).first_dead_end(goal) else { panic!("{name} always gets there") };
    println!("strands {name:<48} after {} steps", way.len());
    println!("{}", steps(way.clone()));
    way.len()
}

/// All states that can be reached, in order of their distance, and where each can be come from.
struct Graph<M: Model> {
    states: Vec<M::State>,
    first_steps: Vec<Option<(usize, M::Action)>>,
    origins: Vec<Vec<usize>>,
}

impl<M: Model> Graph<M>
where
    M::State: Clone + Eq + Hash,
    M::Action: Clone,
{
    fn of(model: &M, happens: impl Fn(&M::Action) -> bool) -> Self {
        let states = model.init_states();
        let mut numbers: HashMap<M::State, usize> = HashMap::new();
        numbers.extend(states.iter().cloned().enumerate().map(|(number, state)| (state, number)));
        let mut graph = Self { first_steps: vec![None; states.len()], origins: vec![Vec::new(); states.len()], states };
        let mut at = 0;
        while at < graph.states.len() {
            for (action, next) in model.next_steps(&graph.states[at]) {
                let happens = happens(&action);
                let number = match numbers.entry(next) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        graph.states.push(new.key().clone());
                        graph.first_steps.push(Some((at, action)));
                        graph.origins.push(Vec::new());
                        *new.insert(graph.states.len() - 1)
                    }
                };
                if happens {
                    graph.origins[number].push(at);
                }
            }
            at += 1;
        }
        graph
    }

    fn first_dead_end(&self, goal: impl Fn(&M::State) -> bool) -> Option<Vec<M::Action>> {
        let mut arrives: Vec<bool> = self.states.iter().map(goal).collect();
        let mut known: Vec<usize> = (0..self.states.len()).filter(|number| arrives[*number]).collect();
        while let Some(number) = known.pop() {
            for origin in &self.origins[number] {
                if !std::mem::replace(&mut arrives[*origin], true) {
                    known.push(*origin);
                }
            }
        }
        let mut number = arrives.iter().position(|arrives| !arrives)?;
        let mut way = Vec::new();
        while let Some((origin, action)) = &self.first_steps[number] {
            way.push(action.clone());
            number = *origin;
        }
        way.reverse();
        Some(way)
    }
}

/// One line for each step.
fn steps(actions: Vec<impl std::fmt::Debug>) -> String {
    let lines = actions.iter().enumerate().map(|(at, action)| format!("        {:>2} {action:?}", at + 1));
    lines.collect::<Vec<_>>().join("\n")
}
