//! Database URLs. A URL may hold a password, and a mistyped one may hold it anywhere, so nothing
//! of a URL that is refused is ever repeated in a message.

use std::path::{Component, Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::defaults::{MYSQL_PORT, POSTGRES_PORT};
use super::model::{Endpoint, Engine, PgHost, Server};
use super::problem::{Complaint, complaint};
use super::secret::Secret;

const POSTGRES_EXAMPLE: &str = "write postgresql://user@host:5432/database; a / ? # @ : or % inside a name or password is written as %2F %3F %23 %40 %3A %25";
const SQLITE_EXAMPLE: &str = "write sqlite:///absolute/path.db or sqlite:relative/path.db";

/// Engines that have a URL scheme people know, but no connector here.
const FOREIGN: [&str; 7] = [
    "mongodb",
    "mongodb+srv",
    "mssql",
    "sqlserver",
    "oracle",
    "redis",
    "cockroachdb",
];

/// Parameters with a key of their own in the node, and that key.
const OWN_KEY: [(&str, &str); 10] = [
    ("sslmode", "tls = { mode = \"verify-full\" }"),
    ("sslrootcert", "tls = { ca_file = \"…\" }"),
    ("sslcert", "tls = { cert_file = \"…\" }"),
    ("sslkey", "tls = { key_file = \"…\" }"),
    ("sslnegotiation", "tls"),
    ("ssl", "tls = { mode = \"verify-full\" }"),
    ("requiressl", "tls = { mode = \"verify-full\" }"),
    ("gssencmode", "tls"),
    ("passfile", "password_file"),
    ("connect_timeout", "connect_timeout"),
];

/// What a URL says.
#[derive(Debug)]
pub(super) struct DatabaseUrl {
    pub endpoint: Endpoint,
    pub password: Option<Secret>,
}

/// Reads a URL; relative SQLite paths start at `base`.
pub(super) fn parse(text: &str, base: &Path) -> Result<DatabaseUrl, Vec<Complaint>> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(vec![complaint(
            "the URL has no scheme",
            "the scheme tells the engine",
            format!("{POSTGRES_EXAMPLE}; for SQLite {SQLITE_EXAMPLE}"),
        )]);
    };
    match scheme {
        "postgresql" | "postgres" => server(Engine::Postgres, rest),
        "mysql" | "mariadb" => server(Engine::Mysql, rest),
        "sqlite" => sqlite(rest, base).map_err(|complaint| vec![complaint]),
        other => Err(vec![unknown_engine(other)]),
    }
}

fn unknown_engine(scheme: &str) -> Complaint {
    let fix = "supported: postgresql://, sqlite: and, for replicas, mysql://";
    match FOREIGN.iter().find(|name| **name == scheme) {
        Some(name) => {
            let what = format!("{name}: is not supported yet by this version");
            complaint(what, "there is no connector for this engine", fix)
        }
        None => complaint(
            "the URL's scheme names no known engine",
            "the scheme tells the engine",
            fix,
        ),
    }
}

fn sqlite(rest: &str, base: &Path) -> Result<DatabaseUrl, Complaint> {
    let bad = |what: &str, why: &str| Err(complaint(what, why, SQLITE_EXAMPLE));
    if rest.contains(['?', '#']) {
        let why =
            "the daemon sets what it needs itself (write ? as %3F and # as %23 in a file name)";
        return bad("a SQLite URL takes no parameters", why);
    }
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => {
            return bad(
                "the part after // would be a host",
                "SQLite files are local",
            );
        }
        None => rest,
    };
    let Some(path) = decode(path).filter(|path| !path.is_empty()) else {
        return bad("the URL names no valid path", "the database is a file");
    };
    if path == ":memory:" || path.starts_with("file:") {
        return bad(
            "the URL names no file",
            "a replicated database must be a file that other processes can open too",
        );
    }
    if path.ends_with('/') {
        return bad("the path names a directory", "the database is a file");
    }
    let path = normalize(&base.join(path));
    Ok(DatabaseUrl {
        endpoint: Endpoint::Sqlite { path },
        password: None,
    })
}

/// The parts of a PostgreSQL URL as they are found, from authority and parameters alike.
#[derive(Default)]
struct Parts {
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
    /// Something was said about the host already; its absence need not be.
    host_refused: bool,
    problems: Vec<Complaint>,
}

impl Parts {
    fn fail(&mut self, what: impl Into<String>, why: &str) {
        self.problems.push(complaint(what, why, POSTGRES_EXAMPLE));
    }

    /// Percent-decodes into a part, once.
    fn set(&mut self, name: &str, raw: &str) {
        let slot = match name {
            "user" => &mut self.user,
            "password" => &mut self.password,
            "host" => &mut self.host,
            "port" => &mut self.port,
            "dbname" => &mut self.database,
            _ => &mut self.application_name,
        };
        let twice = slot.is_some();
        let decoded = decode(raw);
        match decoded {
            _ if twice => self.fail(
                format!("the URL gives the {name} twice"),
                "one must be wrong",
            ),
            None => self.fail(
                format!("the {name} in the URL is not validly percent-encoded text"),
                "it cannot be read",
            ),
            Some(text) => *slot = Some(text),
        }
    }

    fn set_authority(&mut self, authority: &str) {
        let (login, server) = match authority.rsplit_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, authority),
        };
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            if !user.is_empty() {
                self.set("user", user);
            }
            if let Some(password) = password.filter(|password| !password.is_empty()) {
                self.set("password", password);
            }
        }
        self.set_server(server);
    }

    fn set_server(&mut self, server: &str) {
        if server.contains(',') {
            self.host_refused = true;
            let why =
                "a node is one database, and following a list could swap it for another unseen";
            return self.fail("the URL names several hosts", why);
        }
        let (host, port) = match server.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, "")) => (address, None),
                Some((address, port)) if port.starts_with(':') => (address, Some(&port[1..])),
                _ => {
                    self.host_refused = true;
                    return self.fail("the bracketed address is not closed", "it cannot be read");
                }
            },
            None => match server.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (server, None),
            },
        };
        if !host.is_empty() {
            self.set("host", host);
        }
        if let Some(port) = port {
            self.set("port", port);
        }
    }

    fn set_parameters(&mut self, query: &str) {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                self.fail(
                    "a parameter of the URL has no value",
                    "parameters are name=value",
                );
                continue;
            };
            if let Some((name, key)) = OWN_KEY.iter().find(|(own, _)| *own == name) {
                let (what, why) = own_key_refusal(name, value);
                self.problems.push(complaint(
                    what,
                    why,
                    format!("use the node's own key: {key}"),
                ));
            } else if [
                "host",
                "port",
                "user",
                "password",
                "dbname",
                "application_name",
            ]
            .contains(&name)
            {
                self.set(name, value);
            } else {
                self.problems.push(complaint(
                    "the URL has a parameter that is not known",
                    "an unknown parameter is refused, since it would otherwise be ignored silently",
                    "known: host, port, user, password, dbname, application_name; a ? or & in a password is written as %3F or %26",
                ));
            }
        }
    }
}

fn own_key_refusal(name: &str, value: &str) -> (String, &'static str) {
    match (name, value) {
        ("sslmode", "prefer" | "allow") => (
            format!("sslmode={value} in the URL"),
            "it falls back to plaintext when the server, or someone between, declines TLS",
        ),
        _ => (
            format!("`{name}` in the URL"),
            "the setting has a key of its own, and two places could contradict each other",
        ),
    }
}

fn server(engine: Engine, rest: &str) -> Result<DatabaseUrl, Vec<Complaint>> {
    let mut parts = Parts::default();
    let Some(rest) = rest.strip_prefix("//") else {
        parts.fail("the URL lacks // after the scheme", "it cannot be read");
        return Err(parts.problems);
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains(['/', '@', ':']) || rest.contains('#') || query.contains('#') {
        let why = "a / ? or # ends a part of the URL, most often inside a password";
        parts.fail(
            "the URL holds a character that must be percent-encoded",
            why,
        );
        return Err(parts.problems);
    }
    parts.set_authority(authority);
    if !database.is_empty() {
        parts.set("dbname", database);
    }
    parts.set_parameters(query);
    assemble(engine, parts)
}

fn assemble(engine: Engine, mut parts: Parts) -> Result<DatabaseUrl, Vec<Complaint>> {
    let default_port = if engine == Engine::Mysql {
        MYSQL_PORT
    } else {
        POSTGRES_PORT
    };
    let port = match parts.port.take() {
        None => default_port,
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => {
                let why = "a : in a user name or password also ends there and must be %3A";
                parts.fail("the URL's port is not a number from 1 to 65535", why);
                default_port
            }
        },
    };
    let host = match parts.host.take() {
        Some(host) if host.starts_with('/') => Some(PgHost::Unix(normalize(Path::new(&host)))),
        Some(host) if is_host(&host) => Some(PgHost::Tcp(host.to_ascii_lowercase())),
        Some(_) => {
            parts.fail(
                "the URL's host is not a host name or address",
                "it cannot be reached",
            );
            None
        }
        None if parts.host_refused => None,
        None => {
            let what = "the URL names no host";
            let why = "the daemon does not guess; for a Unix socket add ?host=/run/postgresql";
            parts.fail(what, why);
            None
        }
    };
    if parts.user.is_none() {
        parts.fail(
            "the URL names no user",
            "the daemon does not guess which role to log in as",
        );
    }
    if parts.database.is_none() {
        parts.fail(
            "the URL names no database",
            "replication works on one database per node",
        );
    }
    match (host, parts.user, parts.database) {
        (Some(host), Some(user), Some(database)) if parts.problems.is_empty() => Ok(DatabaseUrl {
            endpoint: Endpoint::Server(Server {
                engine,
                host,
                port,
                user,
                database,
                application_name: parts.application_name,
            }),
            password: parts.password.map(Secret::new),
        }),
        _ => Err(parts.problems),
    }
}

fn is_host(host: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !host.is_empty() && (host.chars().all(plain) || host.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Decodes %XX; none where the escapes or the resulting text are invalid, or hold a NUL.
fn decode(raw: &str) -> Option<String> {
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            pair.iter().all(u8::is_ascii_hexdigit).then_some(())?;
        }
    }
    let text = percent_decode_str(raw).decode_utf8().ok()?.into_owned();
    (!text.contains('\0')).then_some(text)
}

/// Removes `.` and `..` by name alone, so that it also works for paths that do not exist yet.
pub(super) fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DatabaseUrl {
        parse(text, Path::new("/base")).unwrap_or_else(|e| panic!("{text}: {e:?}"))
    }

    #[test]
    fn postgres_urls() {
        let url = read("postgresql://re%40pl:p%3A%2Fw@DB.example:6000/sh%20op?application_name=x");
        assert_eq!(url.password.as_ref().unwrap().expose(), "p:/w");
        let Endpoint::Server(server) = &url.endpoint else {
            panic!()
        };
        assert_eq!(server.engine, Engine::Postgres);
        assert_eq!(server.host, PgHost::Tcp("db.example".into()));
        assert_eq!(
            (server.port, server.user.as_str(), server.database.as_str()),
            (6000, "re@pl", "sh op")
        );
        assert_eq!(server.application_name.as_deref(), Some("x"));
        let other = read("mysql://u@h/d").endpoint;
        assert_eq!(other.engine(), Engine::Mysql);
        assert_eq!(other.to_string(), "mysql://u@h:3306/d");

        let v6 = read("postgres://u@[2001:db8::1]:6000/d").endpoint;
        assert_eq!(v6.to_string(), "postgresql://u@[2001:db8::1]:6000/d");
        for text in [
            "postgresql://u@:6000/d?host=/run/pg",
            "postgresql://u@%2Frun%2Fpg:6000/d",
        ] {
            let unix = read(text).endpoint;
            assert_eq!(
                unix.to_string(),
                "postgresql://u@:6000/d?host=/run/pg",
                "{text}"
            );
        }
        assert_eq!(
            read("postgresql:///d?host=/run/pg&user=u")
                .endpoint
                .to_string(),
            "postgresql://u@:5432/d?host=/run/pg"
        );
    }

    #[test]
    fn sqlite_urls() {
        let path = |text: &str| match read(text).endpoint {
            Endpoint::Sqlite { path } => path,
            other => panic!("{other}"),
        };
        assert_eq!(path("sqlite:///var/a%20b.db"), Path::new("/var/a b.db"));
        assert_eq!(path("sqlite:/var/x.db"), Path::new("/var/x.db"));
        assert_eq!(path("sqlite:data/../x.db"), Path::new("/base/x.db"));
        for bad in [
            "sqlite:",
            "sqlite://host/x",
            "sqlite::memory:",
            "sqlite:x?mode=ro",
            "sqlite:d/",
        ] {
            assert!(parse(bad, Path::new("/base")).is_err(), "{bad}");
        }
    }

    #[test]
    fn refused_urls_never_repeat_what_could_be_a_password() {
        let refused = [
            "postgresql://u:hunter2/x@h/d",
            "postgresql://u:12/hunter2@h/d",
            "postgresql://u:a?hunter2=x@h/d",
            "postgresql://u:a#hunter2@h/d",
            "postgresql://u:hunter2%@h/d",
            "postgresql://u:p@h:hunter2/d",
            "postgresql://u:p@h@hunter2:x/d",
            "postgresql:u:hunter2@h/d",
            "hunter2:u@h/d",
            "hunter2",
            "mongodb://u:hunter2@h/d",
            "postgresql://u:hunter2@h1,h2/d",
            "postgresql://u:hunter2@h/d?sslmode=prefer",
            "postgresql://u:hunter2@h/",
            "postgresql://:hunter2@h/d",
            "postgresql://u:hunter2@h/d?password=hunter2",
        ];
        for text in refused {
            let complaints = parse(text, Path::new("/")).map(|_| ()).unwrap_err();
            assert!(
                !format!("{complaints:?}").contains("hunter2"),
                "{text}: {complaints:?}"
            );
        }
    }
}
