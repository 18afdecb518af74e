//! The leanest possible client, for polling and for writing at a steady rate: prepared statements
//! over a Unix socket, blocking, nothing allocated per call that need not be. What measures should
//! cost the machine little.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use repl_tests::pg::PgServer;

/// One session as the superuser.
pub struct Wire {
    reader: BufReader<UnixStream>,
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Wire {
    /// Connects; the test servers trust their Unix socket.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn open(server: &PgServer, database: &str) -> Result<Self> {
        let path = server
            .socket_dir()
            .join(format!(".s.PGSQL.{}", server.port()));
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        let mut wire = Self {
            reader: BufReader::with_capacity(64 * 1024, stream),
            request: Vec::new(),
            body: Vec::new(),
        };
        // Protocol 3.0; the startup message alone has no type byte.
        let mut startup = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", "postgres", "database", database, ""] {
            startup.extend(text.as_bytes());
            startup.push(0);
        }
        let length = u32::try_from(startup.len() + 4)?;
        wire.request.extend(length.to_be_bytes());
        wire.request.extend(startup);
        wire.exchange()?;
        Ok(wire)
    }

    /// Prepares a statement under a name.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn prepare(&mut self, name: &str, sql: &str) -> Result<()> {
        self.message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])?;
        self.message(b'S', &[])?;
        self.exchange().map(drop)
    }

    /// Runs a prepared statement with at most one parameter, given as text; returns the first row's
    /// first column as text.
    ///
    /// # Errors
    /// The server's error, or a lost connection.
    pub fn run(&mut self, name: &str, parameter: Option<&str>) -> Result<Option<String>> {
        // Bind: unnamed portal, parameters and results as text.
        match parameter {
            Some(text) => {
                let length = u32::try_from(text.len())?.to_be_bytes();
                let value = text.as_bytes();
                let rest: [&[u8]; 5] = [b"\0\0\0", b"\0\x01", &length, value, b"\0\0"];
                self.message(b'B', &[b"\0", name.as_bytes(), &rest.concat()])?;
            }
            None => self.message(b'B', &[b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"])?,
        }
        self.message(b'E', &[b"\0\0\0\0\0"])?;
        self.message(b'S', &[])?;
        self.exchange()
    }

    /// [`Wire::run`] for a number; 0 for NULL or no row.
    ///
    /// # Errors
    /// As [`Wire::run`], or an answer that is no number.
    pub fn number(&mut self, name: &str) -> Result<i64> {
        match self.run(name, None)? {
            Some(text) => text
                .parse()
                .with_context(|| format!("{name} gave {text:?}")),
            None => Ok(0),
        }
    }

    /// Adds a message to the request.
    fn message(&mut self, kind: u8, parts: &[&[u8]]) -> Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.request.push(kind);
        self.request
            .extend(u32::try_from(length + 4)?.to_be_bytes());
        for part in parts {
            self.request.extend(*part);
        }
        Ok(())
    }

    /// Sends the request and reads until the server is ready for the next.
    fn exchange(&mut self) -> Result<Option<String>> {
        self.reader.get_mut().write_all(&self.request)?;
        self.request.clear();
        let mut found = None;
        let mut error = None;
        loop {
            match self.read_message()? {
                b'Z' => break,
                b'D' => found = first_column(&self.body)?,
                b'E' => error = Some(String::from_utf8_lossy(&self.body).replace('\0', " ")),
                b'R' if self.body.iter().any(|&byte| byte != 0) => {
                    bail!("the server asks for a password on its Unix socket")
                }
                _ => {}
            }
        }
        match error {
            Some(text) => bail!("the server answered {text}"),
            None => Ok(found),
        }
    }

    fn read_message(&mut self) -> Result<u8> {
        let mut head = [0; 5];
        self.reader
            .read_exact(&mut head)
            .context("the server closed the connection")?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length)?
            .checked_sub(4)
            .context("a message shorter than its head")?;
        self.body.resize(length, 0);
        self.reader.read_exact(&mut self.body)?;
        Ok(head[0])
    }
}

/// The first column of a DataRow; none when it is NULL or the row has none.
fn first_column(body: &[u8]) -> Result<Option<String>> {
    let Some((head, rest)) = body.split_at_checked(6) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([head[2], head[3], head[4], head[5]]);
    let Ok(length) = usize::try_from(length) else {
        return Ok(None);
    };
    let value = rest
        .get(..length)
        .context("a row shorter than its column")?;
    Ok(Some(String::from_utf8(value.to_vec())?))
}
