//! Labels that the primary's enum types have and the replica's lack: added where they stand there.

use std::collections::BTreeMap;

use super::session::Session;
use super::store::text;
use crate::postgres::ddl::literal;
use crate::seam::{EnumType, FollowedEnums, Result};

/// Every label of every enum type.
const FOUND: &str = "SELECT pg_catalog.format_type(e.enumtypid, NULL), e.enumlabel \
    FROM pg_catalog.pg_enum e ORDER BY 1, e.enumsortorder";

impl Session {
    pub(super) async fn follow_enums(&mut self, wanted: &[EnumType]) -> Result<FollowedEnums> {
        let rows = self.rows(FOUND, &[]).await?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for at in 0..rows.len() {
            let labels = found.entry(text(&rows, at, 0).to_owned()).or_default();
            labels.push(text(&rows, at, 1).to_owned());
        }
        let mut followed = FollowedEnums::default();
        for one in wanted {
            let Some(here) = found.get(&one.name) else {
                continue;
            };
            let Some(statements) = additions(one, here) else {
                followed.differing.push(difference(one, here));
                continue;
            };
            for statement in statements {
                let done = self.client.simple(&statement).await;
                done.map_err(|error| {
                    error.advice(format!(
                        "as the type's owner run: {statement}; then `replctl retry <replica>`"
                    ))
                })?;
                followed.added.push(statement);
            }
        }
        Ok(followed)
    }
}

/// The statements that add what `here` lacks; none where one label may have been given another name. A
/// label is never taken out of a type, so what both have stands in the same order.
fn additions(wanted: &EnumType, here: &[String]) -> Option<Vec<String>> {
    let mut rest = here.iter().peekable();
    let mut statements = Vec::new();
    for (at, label) in wanted.labels.iter().enumerate() {
        if rest.next_if_eq(&label).is_some() {
            continue;
        }
        let place = match at.checked_sub(1) {
            Some(before) => format!("AFTER {}", literal(&wanted.labels[before])),
            None => match here.first() {
                Some(first) => format!("BEFORE {}", literal(first)),
                None => String::new(),
            },
        };
        statements.push(format!(
            "ALTER TYPE {} ADD VALUE {} {place}",
            wanted.name,
            literal(label)
        ));
    }
    rest.next().is_none().then_some(statements)
}

fn difference(wanted: &EnumType, here: &[String]) -> String {
    let list = |labels: &[String]| {
        let quoted: Vec<String> = labels.iter().map(|label| literal(label)).collect();
        quoted.join(", ")
    };
    format!(
        "{} has the labels {} at the primary and {} here",
        wanted.name,
        list(&wanted.labels),
        list(here)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(wanted: &[&str], here: &[&str]) -> Option<Vec<String>> {
        let own = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect();
        let name = "public.mood".to_owned();
        let labels = own(wanted);
        additions(&EnumType { name, labels }, &own(here))
    }

    #[test]
    fn labels_are_added_where_the_primary_has_them() {
        let added = made(&["a", "b", "c", "it's", "d"], &["b", "d"]).unwrap();
        assert_eq!(
            added,
            [
                "ALTER TYPE public.mood ADD VALUE 'a' BEFORE 'b'",
                "ALTER TYPE public.mood ADD VALUE 'c' AFTER 'b'",
                "ALTER TYPE public.mood ADD VALUE 'it''s' AFTER 'c'",
            ]
        );
        assert_eq!(made(&["a", "b"], &["a", "b"]), Some(Vec::new()));
        assert_eq!(made(&["a"], &[]).unwrap().len(), 1);
    }

    #[test]
    fn a_label_that_may_have_another_name_is_left_to_people() {
        assert_eq!(made(&["happy", "sad"], &["glad", "sad"]), None);
        assert_eq!(made(&["b", "a"], &["a", "b"]), None);
        assert_eq!(made(&["a"], &["a", "own"]), None);
    }
}
