//! A session to a replica, for as long as it is known what it is doing.

use repl_core::ErrorKind;

use crate::seam::{ConnectorError, Result};

/// Holds a session between calls. It stays only while calls succeed: after an error, or when the
/// caller gave up waiting, what it was doing is not known any more.
pub(crate) struct Held<S>(Option<S>);

impl<S> Held<S> {
    /// No session yet.
    pub(crate) fn none() -> Self {
        Held(None)
    }

    /// Holds `session` from now on.
    pub(crate) fn put(&mut self, session: S) {
        self.0 = Some(session);
    }

    /// The session, if there is one.
    pub(crate) fn get(&self) -> Option<&S> {
        self.0.as_ref()
    }

    /// Takes the session out.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when there is none.
    pub(crate) fn take(&mut self) -> Result<S> {
        self.0.take().ok_or_else(closed)
    }

    /// The session, left in place: for what changes nothing when the caller gives up waiting.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when there is none.
    pub(crate) fn in_place(&mut self) -> Result<&mut S> {
        self.0.as_mut().ok_or_else(closed)
    }

    /// One call of the session.
    ///
    /// # Errors
    /// Those of the call; [`ErrorKind::Connection`] when there is no session.
    pub(crate) async fn with<R>(
        &mut self,
        call: impl AsyncFnOnce(&mut S) -> Result<R>,
    ) -> Result<R> {
        let mut session = self.take()?;
        let done = call(&mut session).await?;
        self.put(session);
        Ok(done)
    }
}

fn closed() -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Connection,
        "the session to the replica is closed",
    )
}
