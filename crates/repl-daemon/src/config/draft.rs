//! The configuration between reading and checking: all defaults filled in, but what is wrong in the
//! file is still missing here, so that the checks can go on with the rest.

use toml::de::DeTable;

use super::model::{
    ApiConfig, CaptureConfig, Config, CopyConfig, Endpoint, Engine, FailoverConfig, GroupConfig,
    LimitsConfig, LogConfig, LoggingConfig, NodeRole, PromotionConfig, ReplicationConfig,
    RetryConfig, TablesConfig, ValidateConfig,
};
use super::node::{self, NodeDraft, Surroundings};
use super::problem::{Findings, Problem};
use super::reader::Section;
use super::{failover, replication, sections, tables};

/// A configuration as far as it could be read.
pub(super) struct ConfigDraft {
    pub group: GroupConfig,
    pub log: LogConfig,
    pub api: ApiConfig,
    pub logging: LoggingConfig,
    pub limits: LimitsConfig,
    pub copy: CopyConfig,
    pub validate: ValidateConfig,
    pub replication: ReplicationConfig,
    pub promotion: PromotionConfig,
    pub failover: FailoverConfig,
    pub retry: RetryConfig,
    pub capture: CaptureConfig,
    pub tables: TablesConfig,
    pub nodes: Vec<NodeDraft>,
}

impl ConfigDraft {
    pub fn read<'r>(
        findings: &'r Findings,
        tree: &'r DeTable<'r>,
        around: Surroundings<'_>,
    ) -> Self {
        let mut root = Section::root(findings, tree);
        let group = sections::group(root.section("group"));
        let log = sections::log(root.section("log"), around.base);
        let api = sections::api(root.section("api"), around.base, &log.dir, around.env);
        let logging = sections::logging(root.section("logging"));
        let limits = sections::limits(root.section("limits"));
        let copy = sections::copy(root.section("copy"));
        let validate = sections::validate(root.section("validate"));
        let replication = replication::read(root.section("replication"));
        let promotion = sections::promotion(root.section("promotion"));
        let failover = failover::read(root.section("failover"));
        let retry = sections::retry(root.section("retry"));
        let capture = sections::capture(root.section("capture"), &group);
        let mut selection = root.section("tables");
        let tables = tables::read(&mut selection);
        selection.finish();
        let nodes = root
            .sections("node")
            .into_iter()
            .map(|node| node::read(node, around));
        let nodes = nodes.collect();
        root.finish();
        Self {
            group,
            log,
            api,
            logging,
            limits,
            copy,
            validate,
            replication,
            promotion,
            failover,
            retry,
            capture,
            tables,
            nodes,
        }
    }

    /// Whether a node is of this engine.
    pub fn has_engine(&self, engine: Engine) -> bool {
        let engines = self.nodes.iter().filter_map(|node| node.endpoint.as_ref());
        engines.map(Endpoint::engine).any(|one| one == engine)
    }

    /// The finished configuration; none when something required is missing.
    pub fn finish(self, warnings: Vec<Problem>) -> Option<Config> {
        let nodes: Option<Vec<_>> = self.nodes.into_iter().map(NodeDraft::finish).collect();
        let (mut primaries, replicas): (Vec<_>, Vec<_>) = nodes?
            .into_iter()
            .partition(|node| node.role == NodeRole::Primary);
        let primary = primaries.pop()?;
        Some(Config {
            origin: primary.name.clone(),
            home: primary.endpoint.engine(),
            group: self.group,
            log: self.log,
            api: self.api,
            logging: self.logging,
            limits: self.limits,
            copy: self.copy,
            validate: self.validate,
            replication: self.replication,
            promotion: self.promotion,
            failover: self.failover,
            retry: self.retry,
            capture: self.capture,
            tables: self.tables,
            primary,
            replicas,
            warnings,
        })
    }
}
