//! The choreography as a Mermaid flowchart, which ARCHITECTURE.md shows.
//!
//! Boxes are events and hexagons are reactions, in the colour of the service that they belong to; a dotted arrow is what
//! may follow an answer. Reactions that are alike are drawn as one.

use std::fmt::Write as _;

use super::{By, FROM_OUTSIDE, REACTIONS, Reaction};
use crate::service::SERVICES;

/// Fill and stroke of each service's shapes, in the order of [`SERVICES`]; legible on light pages and on dark ones.
const COLOURS: [(&str, &str); SERVICES.len()] =
    [("#dbeafe", "#1d4ed8"), ("#dcfce7", "#15803d"), ("#fef3c7", "#b45309")];

/// The map as the text of a Mermaid flowchart; equal maps give equal texts.
pub fn mermaid() -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    for (number, (what, event)) in FROM_OUTSIDE.iter().enumerate() {
        lines.push(format!("    from{number}([\"{what}\"]) --> {event}"));
    }

    let steps = steps();
    for (number, (events, reaction)) in steps.iter().enumerate() {
        let step = format!("step{number}");
        lines.push(format!(
            "    {} --> {step}{{{{\"{}\"}}}}",
            events.join(" & "),
            label(reaction)
        ));
        lines.push(format!("    {step} --> {}", reaction.produces.join(" & ")));
        if !reaction.also.is_empty() {
            lines.push(format!("    {step} -.-> {}", reaction.also.join(" & ")));
        }
    }

    for (service, (fill, stroke)) in SERVICES.iter().zip(COLOURS) {
        let name = service.name;
        let events = service.types.iter().map(|event_type| event_type.name.to_owned());
        let own_steps = steps
            .iter()
            .enumerate()
            .filter(|(_, (_, reaction))| reaction.service == name);
        let shapes: Vec<_> = events
            .chain(own_steps.map(|(number, _)| format!("step{number}")))
            .collect();
        lines.push(format!("    classDef {name} fill:{fill},stroke:{stroke},color:#111"));
        lines.push(format!("    class {} {name}", shapes.join(",")));
    }
    lines.join("\n") + "\n"
}

/// Reactions that differ in nothing but their event, together with those events.
fn steps() -> Vec<(Vec<&'static str>, &'static Reaction)> {
    let mut steps: Vec<(Vec<&'static str>, &'static Reaction)> = Vec::new();
    for reaction in REACTIONS {
        let alike = |step: &&mut (Vec<_>, &Reaction)| {
            Reaction {
                event: reaction.event,
                ..*step.1
            } == *reaction
        };
        match steps.iter_mut().find(alike) {
            Some((events, _)) => events.push(reaction.event),
            None => steps.push((vec![reaction.event], reaction)),
        }
    }
    steps
}

fn label(reaction: &Reaction) -> String {
    let mut label = reaction.service.to_owned();
    if reaction.by == By::Worker {
        label.push_str("' worker");
    }
    if let Some(duration) = reaction.within.default_duration() {
        write!(label, "<br>within {} s", duration.as_secs()).expect("writing to a string cannot fail");
    }
    label
}
