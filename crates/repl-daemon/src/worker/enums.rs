//! A label that was added to an enum type is in no stream: the replica refuses the first value that has it.
//! It is then given the labels that it lacks, and goes on.

use repl_connectors::seam::{ConnectorError, FollowedEnums};
use repl_core::ErrorKind;
use repl_core::schema::TableName;
use tracing::info;

use super::{Failure, Worker};

impl Worker {
    /// After a value that the replica did not take: whether labels were added that may be the reason, so
    /// that it is to be tried again. If not, `failure` says what is to be done, as far as types tell it.
    pub(super) async fn gained_labels(&mut self, failure: &mut Failure) -> bool {
        if failure.error.kind != ErrorKind::Data {
            return false;
        }
        let followed = self.follow_enums().await;
        self.parts.applier.close().await;
        let followed = match followed {
            Ok(followed) => followed,
            Err(error) => {
                info!(error = %error.message, "the labels of enum types cannot be compared");
                if error.kind == ErrorKind::Privilege {
                    failure.error.advice = error.advice;
                }
                return false;
            }
        };
        for statement in &followed.added {
            info!(statement, "the primary's enum type has gained a label");
        }
        if followed.added.is_empty() && !followed.differing.is_empty() {
            failure.error.advice = format!(
                "{}: where a label was given another name, run ALTER TYPE … RENAME VALUE … TO … at the \
                 replica; then `replctl retry <replica>`",
                followed.differing.join("; ")
            );
        }
        !followed.added.is_empty()
    }

    async fn follow_enums(&mut self) -> Result<FollowedEnums, ConnectorError> {
        let told = self.parts.tables.borrow().clone();
        let told = told.iter().map(|table| table.name.clone());
        let tables: Vec<TableName> = told.chain(self.state.tables.keys().cloned()).collect();
        let enums = self.parts.snapshots.enums(&tables).await?;
        if enums.is_empty() {
            return Ok(FollowedEnums::default());
        }
        self.parts.applier.open().await?;
        self.parts.applier.follow_enums(&enums).await
    }
}
