//! What to do when the server has no room for another slot.

use sqlx::{PgConnection, Row};

/// How much more than there is is asked for.
const MORE: i32 = 10;

/// Advice that raises the limit above the present one, whatever that is.
pub(super) async fn more_slots(connection: &mut PgConnection) -> String {
    let sql = "SELECT current_setting('max_replication_slots')::int4 AS most,
                      ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE NOT active
                             ORDER BY slot_name) AS idle";
    let row = sqlx::query(sql).fetch_one(connection).await.ok();
    let most = row.as_ref().and_then(|row| row.try_get("most").ok());
    let idle: Option<Vec<String>> = row.as_ref().and_then(|row| row.try_get("idle").ok());
    advice(most.unwrap_or_default(), &idle.unwrap_or_default())
}

fn advice(most: i32, idle: &[String]) -> String {
    let raise = most.max(0).saturating_add(MORE);
    let mut text = format!(
        "run: ALTER SYSTEM SET max_replication_slots = {raise};  and restart that server (it is {most} now)"
    );
    // Whether somebody still counts on one cannot be told from here.
    text.push_str("\nor drop slots nothing uses any more");
    if !idle.is_empty() {
        text.push_str(&format!("; inactive now: {}", super::role::listed(idle)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn more_is_asked_for_than_there_is() {
        let text = advice(20, &[]);
        assert!(text.contains("max_replication_slots = 30;"), "{text}");
        assert!(!text.contains("inactive"), "{text}");
        let text = advice(1, &["a".to_owned(), "b".to_owned()]);
        assert!(text.contains("= 11;") && text.contains("a, b"), "{text}");
    }
}
