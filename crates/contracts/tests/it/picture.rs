//! ARCHITECTURE.md shows the choreography as it is.

use std::fs;
use std::path::Path;

use contracts::choreography;

const BEGIN: &str = "<!-- choreography -->";
const END: &str = "<!-- /choreography -->";

#[test]
fn the_architecture_document_shows_the_map_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md");
    let text = fs::read_to_string(&path).expect("ARCHITECTURE.md is at the root");
    let (_, after) = text
        .split_once(BEGIN)
        .unwrap_or_else(|| panic!("ARCHITECTURE.md lacks {BEGIN}"));
    let (shown, _) = after
        .split_once(END)
        .unwrap_or_else(|| panic!("ARCHITECTURE.md lacks {END}"));
    let drawn = format!("```mermaid\n{}```", choreography::mermaid());
    assert_eq!(shown.trim(), drawn, "put this between the markers:\n\n{drawn}\n\n");
}

#[test]
fn the_picture_shows_every_event() {
    let picture = choreography::mermaid();
    for event_type in contracts::service::SERVICES.iter().flat_map(|service| service.types) {
        let arrows = picture.lines().filter(|line| line.contains("->"));
        let words = arrows
            .flat_map(|line| line.split(' '))
            .filter(|word| *word == event_type.name);
        assert_ne!(words.count(), 0, "{}", event_type.name);
    }
}
