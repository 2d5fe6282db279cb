//! The command line. Every command explains itself with an example; wrong usage ends with 64, as a wrong configuration does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, default_state_dir};

/// Exit code of wrong usage and of a wrong configuration (`EX_USAGE` of sysexits.h). 0 is good, 1 is failed.
pub const EXIT_USAGE: u8 = 64;

/// What the process was asked to do.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about = "Forwards traffic and counts every byte of it, exactly.")]
#[command(disable_help_subcommand = false, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Start here:\n  weir demo\n  weir run --upstream 127.0.0.1:3000\n  weir events --follow\n\n\
                  Exit codes: 0 good, 1 failed, 64 wrong usage or configuration.")]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// One of the commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Forward traffic and record it
    Run(RunArgs),
    /// Check a configuration: all errors at once, each with its line
    Check(CheckArgs),
    /// Print records, one per line
    Events(EventsArgs),
    /// Show the whole chain with an origin and traffic of its own
    Demo(DemoArgs),
    /// Say what an IP address is, whose it is, and how we know
    Ip(IpArgs),
    /// Build, verify, compare and fetch what is known of addresses
    Geoip(GeoipArgs),
    /// Make the hashes that a table of API keys holds
    Key(KeyArgs),
    /// Look at, verify or export the journal of a state directory
    Journal(JournalArgs),
    /// Ask a running process whether it is ready
    Health(HealthArgs),
    /// Turn records into usage that can be billed
    Ledger(LedgerArgs),
    /// Print what an account used
    Usage(UsageArgs),
    /// Seal a month, or show what sealed ones came to
    Period(PeriodArgs),
    /// List the nodes that a ledger knows, or give one up
    Node(NodeArgs),
    /// Put the numbers of every step side by side, and explain each difference
    Audit(AuditArgs),
    /// Correct usage by hand: a row more, with who and why
    Correct(CorrectArgs),
    /// Keep every record as Parquet, and prove that all of them are there
    Archive(ArchiveArgs),
    /// Erase what is known of an account or an address; bills stay as they are
    Erase(EraseArgs),
    /// Make tokens that the ledger's portal takes, and keys that they are signed with
    Token(TokenArgs),
    /// Ask the archive in SQL
    #[command(disable_help_flag = true, after_help = "Example:\n  weir query --help")]
    Query(QueryArgs),
    /// Have a report made of the archive
    #[command(disable_help_flag = true, after_help = "Example:\n  weir report --help")]
    Report(QueryArgs),
}

/// `weir query` and `weir report`: what `weir-query` takes.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// As they are: --help shows them
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<std::ffi::OsString>,
}

/// `weir run`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir run --upstream 127.0.0.1:3000\n  weir run --config /etc/weir/weir.toml\n  \
                  weir run --config /etc/weir/weir.toml --upgrade",
    group(ArgGroup::new("what").required(true).args(["config", "upstream"]))
)]
pub struct RunArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// With no file: forward HTTP to this server, like `127.0.0.1:3000` or `https://api.example.com`
    #[arg(long, value_name = "ADDRESS")]
    pub upstream: Option<String>,
    /// With --upstream: where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", requires = "upstream", conflicts_with = "config")]
    pub listen: Option<String>,
    /// With --upstream: where to keep records [default: ~/.local/state/weir]
    #[arg(long, value_name = "DIR", requires = "upstream", conflicts_with = "config")]
    pub state: Option<PathBuf>,
    /// Take over the listening sockets of the process that runs with the same state directory, which then drains
    #[arg(long)]
    pub upgrade: bool,
}

impl RunArgs {
    /// The configuration these flags mean: the file's, or one made of `--upstream`, `--listen` and `--state`, with what
    /// `weir geoip fetch` brought.
    pub fn configuration(&self) -> Result<Config, ConfigErrors> {
        match (&self.config, &self.upstream) {
            (Some(file), _) => Config::load(file),
            (None, upstream) => {
                let upstream = upstream.as_deref().unwrap_or_default();
                let mut config = Config::for_flags(upstream, self.listen.as_deref(), self.state.as_deref())?;
                // What was fetched is there to be used; what was not is said once, when it starts.
                config.geoip.plan = Some(crate::enrichment::fetched_plan()).filter(|plan| plan.exists());
                Ok(config)
            }
        }
    }
}

/// `weir check`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir check --config /etc/weir/weir.toml\n  weir check --sink --config /etc/weir/weir.toml"
)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Also ask a Kafka sink's brokers for the topic, and name what it lacks
    #[arg(long)]
    pub sink: bool,
}

/// `weir events`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  weir events --follow\n  weir events --state /var/lib/weir --json\n  \
                  weir events --file /var/log/weir/usage.json --csv > usage.csv\n  \
                  weir events --kafka 127.0.0.1:9092 --topic weir.usage --from 2026-01-31T12:00:00Z --json")]
pub struct EventsArgs {
    /// Read the journal in this state directory [default: ~/.local/state/weir]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "kafka"])]
    pub state: Option<PathBuf>,
    /// Read this file, written by a file sink
    #[arg(long, value_name = "FILE", conflicts_with = "kafka")]
    pub file: Option<PathBuf>,
    /// Read a topic at these brokers, `host:port` with commas; what is missing, comes twice or was altered is named on
    /// stderr, and the exit code is 1 if anything is unexplained
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// With --kafka: the topic
    #[arg(long, value_name = "TOPIC", default_value = "weir.usage", requires = "kafka")]
    pub topic: String,
    /// With --kafka: where to begin: earliest, latest, offset:N, milliseconds since 1970, or a time in UTC
    #[arg(long, value_name = "START", default_value = "earliest", requires = "kafka")]
    pub from: String,
    /// With --kafka: a property of librdkafka, like `security.protocol=sasl_ssl`; may be repeated
    #[arg(long = "property", value_name = "NAME=VALUE", requires = "kafka")]
    pub properties: Vec<String>,
    /// With --kafka: properties, one `NAME=VALUE` per line, from a file, so that no secret stands in the process list
    #[arg(long, value_name = "FILE", requires = "kafka")]
    pub properties_file: Option<PathBuf>,
    /// With --kafka: every message must be signed with a key from such a file; may be repeated
    #[arg(long = "verify", value_name = "KEY-ID=FILE", requires = "kafka")]
    pub keys: Vec<String>,
    /// Go on with records as they are written, until interrupted
    #[arg(long)]
    pub follow: bool,
    /// One JSON object per line, every field
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Comma-separated values with a header line, every field
    #[arg(long)]
    pub csv: bool,
}

/// Where `weir events` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsSource {
    /// The journal of a state directory.
    State(PathBuf),
    /// A file of a file sink.
    File(PathBuf),
    /// A topic at these brokers.
    Kafka(String),
}

/// How `weir events` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsForm {
    /// The most important fields, for people.
    Text,
    /// JSON lines.
    Json,
    /// Comma-separated values.
    Csv,
}

impl EventsArgs {
    /// Where to read; without a word, where `weir run --upstream` writes.
    pub fn source(&self) -> EventsSource {
        if let Some(servers) = &self.kafka {
            return EventsSource::Kafka(servers.clone());
        }
        match (&self.file, &self.state) {
            (Some(file), _) => EventsSource::File(file.clone()),
            (None, Some(dir)) => EventsSource::State(dir.clone()),
            (None, None) => EventsSource::State(default_state_dir()),
        }
    }

    /// How to print.
    pub fn form(&self) -> EventsForm {
        match (self.json, self.csv) {
            (true, _) => EventsForm::Json,
            (false, true) => EventsForm::Csv,
            (false, false) => EventsForm::Text,
        }
    }
}

/// `weir ip`
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir ip 8.8.8.8\n  weir ip --config /etc/weir/weir.toml --explain 2a00:1450::1\n  \
                  weir ip --json --as-of 2026-01-31T12:00:00Z --plan geoip.toml 8.8.8.8\n  \
                  weir ip --stdin < addresses.txt > answers.ndjson\n  weir ip serve --listen 127.0.0.1:9980 --tokens tokens.txt"
)]
pub struct IpArgs {
    /// Serve instead.
    #[command(subcommand)]
    pub command: Option<IpCommand>,
    /// Addresses to look up
    #[arg(value_name = "ADDR", required_unless_present = "stdin", conflicts_with = "stdin")]
    pub addresses: Vec<String>,
    /// Look up an address a line; answers are JSON lines in the same order, and the code is 1 if a line was no address
    #[arg(long)]
    pub stdin: bool,
    /// One JSON object per address
    #[arg(long)]
    pub json: bool,
    /// Also ask every source, and mark which of them counts
    #[arg(long, conflicts_with_all = ["stdin", "as_of"])]
    pub explain: bool,
    /// Answer as it was known at a time, from the snapshots that the plan keeps
    #[arg(long, value_name = "TIME")]
    pub as_of: Option<String>,
    /// What to answer from.
    #[command(flatten)]
    pub knowledge: KnowledgeArgs,
}

/// `weir ip serve`
#[derive(Debug, Subcommand)]
pub enum IpCommand {
    /// Answer over HTTP; GET /openapi.json says how
    #[command(after_help = "Example:\n  weir ip serve --listen 127.0.0.1:9980 --tokens tokens.txt --plan geoip.toml")]
    Serve {
        /// Where to listen
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9980")]
        listen: std::net::SocketAddr,
        /// A bearer token a line; every request needs one of them. Without the file everybody may ask
        #[arg(long, value_name = "FILE")]
        tokens: Option<PathBuf>,
        /// What to answer from.
        #[command(flatten)]
        knowledge: KnowledgeArgs,
    },
    /// Decrypt addresses that records keep encrypted, an answer a line
    #[command(after_help = "Example:\n  weir ip decrypt --key ip.key 2001:db8::1234")]
    Decrypt {
        /// The file that `encryption_key` names
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Encrypted addresses [default: a line each on standard input]
        #[arg(value_name = "ADDR")]
        addresses: Vec<String>,
    },
}

/// `weir key`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  weir key hash --hash-key keys.secret < new-keys.txt"
)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What `weir key` does.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Read API keys, a line each on standard input, and print the hash of each, a line each
    #[command(after_help = "Example:\n  weir key hash --hash-key keys.secret < new-keys.txt")]
    Hash {
        /// The file that the table's `hash_key` names
        #[arg(long, value_name = "FILE")]
        hash_key: PathBuf,
    },
}

/// What `weir ip` answers from; without any of these from what `weir geoip fetch` brought.
#[derive(Debug, Default, Args)]
pub struct KnowledgeArgs {
    /// The sidecar's configuration: its plan, and its screening rules
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "snapshot", "databases"])]
    pub config: Option<PathBuf>,
    /// A plan: sources, accounts, labels, overrides
    #[arg(long, value_name = "FILE", conflicts_with_all = ["snapshot", "databases"])]
    pub plan: Option<PathBuf>,
    /// A snapshot that `weir geoip build` made
    #[arg(long, value_name = "FILE", conflicts_with = "databases")]
    pub snapshot: Option<PathBuf>,
    /// With --snapshot: the public key's file that it must be signed with
    #[arg(long, value_name = "FILE", requires = "snapshot")]
    pub public_key: Option<PathBuf>,
    /// An MMDB file; may be repeated, the first that knows is believed
    #[arg(long = "database", value_name = "FILE")]
    pub databases: Vec<PathBuf>,
}

/// `weir geoip`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir geoip fetch\n  weir geoip build --plan geoip.toml --to table.weirgeo --key signing.key\n  \
                  weir geoip verify table.weirgeo --public-key signing.pub\n  weir geoip diff old.weirgeo new.weirgeo"
)]
pub struct GeoipArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GeoipCommand,
}

/// What `weir geoip` does.
#[derive(Debug, Subcommand)]
pub enum GeoipCommand {
    /// Bring freely licensed databases of countries and networks, and a plan that uses them; needs npm
    #[command(after_help = "Example:\n  weir geoip fetch --to /var/lib/weir/geoip")]
    Fetch {
        /// Where to put them [default: ~/.local/state/weir/geoip]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Make a signing key, and print its public half
    #[command(after_help = "Example:\n  weir geoip key signing.key > signing.pub")]
    Key {
        /// The file to make; it must not be there yet
        file: PathBuf,
    },
    /// Compile a plan into a snapshot that sidecars load instead
    #[command(after_help = "Example:\n  weir geoip build --plan geoip.toml --to table.weirgeo --key signing.key")]
    Build {
        /// What to compile.
        #[command(flatten)]
        knowledge: KnowledgeArgs,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Sign with the key in this file
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Check a snapshot, or compile a plan and hold it against its canaries; ends with 1 if anything is wrong
    #[command(after_help = "Example:\n  weir geoip verify table.weirgeo --public-key signing.pub")]
    Verify {
        /// A snapshot, or a plan (`.toml`)
        file: PathBuf,
        /// The public key's file that a snapshot must be signed with
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
    },
    /// Show sources with their age and licence, sizes and coverage
    #[command(after_help = "Example:\n  weir geoip status --plan geoip.toml")]
    Status {
        /// What to show.
        #[command(flatten)]
        knowledge: KnowledgeArgs,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// How many addresses, and which accounts, change country, account, label or verdict
    #[command(after_help = "Example:\n  weir geoip diff old.weirgeo new.weirgeo --config /etc/weir/weir.toml")]
    Diff {
        /// A snapshot, or a plan (`.toml`)
        old: PathBuf,
        /// Another
        new: PathBuf,
        /// Verdicts are by this configuration's screening rules
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Every range that changes, too
        #[arg(long)]
        ranges: bool,
        /// One JSON object, and one for each range
        #[arg(long)]
        json: bool,
    },
}

/// `weir journal`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir journal status --state /var/lib/weir\n  weir journal verify --state /var/lib/weir\n  \
                  weir journal export --state /mnt/dead-node/weir --to usage.jsonl"
)]
pub struct JournalArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: JournalCommand,
}

/// What `weir journal` does.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Show epochs, shards, and how much waits for the sink
    #[command(after_help = "Example:\n  weir journal status --state /var/lib/weir")]
    Status {
        /// The state directory [default: ~/.local/state/weir]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// One JSON object per shard
        #[arg(long)]
        json: bool,
    },
    /// Read every record; name what is damaged, and then end with 1
    #[command(after_help = "Example:\n  weir journal verify --state /var/lib/weir")]
    Verify {
        /// The state directory [default: ~/.local/state/weir]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Write the records of a dead node's disk to a file that a ledger reads, with a close of all that it left open
    #[command(after_help = "Example:\n  weir journal export --state /mnt/dead-node/weir --to usage.jsonl")]
    Export {
        /// The state directory [default: ~/.local/state/weir]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// The file to make; dead epochs are copied beside it for a while
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// As a file sink writes it
        #[arg(long, value_name = "FORM", value_enum, default_value_t = ExportForm::Json)]
        form: ExportForm,
        /// Only what no sink has acknowledged
        #[arg(long)]
        unshipped: bool,
        /// Only what was recorded: nothing is copied, what was left open is not closed
        #[arg(long)]
        as_is: bool,
    },
}

/// How `weir journal export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportForm {
    /// JSON lines.
    Json,
    /// Length-delimited `UsageBatch` messages.
    Protobuf,
}

/// Which ledger.
#[derive(Debug, Args)]
pub struct LedgerPlace {
    /// Configuration file, the sidecar's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// With no file: the state directory of `weir run --upstream` [default: ~/.local/state/weir]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub state: Option<PathBuf>,
}

/// `weir ledger`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir ledger\n  weir ledger --config /etc/weir/weir.toml\n  weir ledger --once --state /var/lib/weir"
)]
pub struct LedgerArgs {
    /// Which.
    #[command(flatten)]
    pub place: LedgerPlace,
    /// End when everything that is there was read; not for a topic, which has no end
    #[arg(long)]
    pub once: bool,
}

/// `weir usage`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir usage --account acme\n  weir usage --account acme --from 2026-11-01 --to 2026-12-01 --by day\n  \
                  weir usage --by account --meter egress_bytes --csv\n  weir usage --account acme --by reason"
)]
pub struct UsageArgs {
    /// Which.
    #[command(flatten)]
    pub place: LedgerPlace,
    /// Whose; all together without it
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// From this time on, UTC: 2026-01-31 or 2026-01-31T12:00:00Z, in whole hours
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// A line for each
    #[arg(long, value_enum)]
    pub by: Option<UsageBy>,
    /// Only this meter; may be repeated
    #[arg(long = "meter", value_name = "METER")]
    pub meters: Vec<String>,
    /// One JSON object per line, and one that says up to when it is complete
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Comma-separated values with a header line
    #[arg(long)]
    pub csv: bool,
}

/// What lines of usage are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // named as in records
pub enum UsageBy {
    Hour,
    Day,
    Month,
    Account,
    Endpoint,
    Host,
    Protocol,
    Country,
    Status,
    Reason,
    Kind,
}

/// `weir period`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir period close 2026-11 --config /etc/weir/weir.toml\n  weir period show 2026-11"
)]
pub struct PeriodArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PeriodCommand,
}

/// What `weir period` does.
#[derive(Debug, Subcommand)]
pub enum PeriodCommand {
    /// Seal a month for ever: what comes late counts in the next one, and says so
    #[command(after_help = "Example:\n  weir period close 2026-11 --config /etc/weir/weir.toml")]
    Close {
        /// Like 2026-11
        period: String,
        /// Which ledger.
        #[command(flatten)]
        place: LedgerPlace,
        /// Seal it although something is missing, and state what
        #[arg(long)]
        with_holes: bool,
        /// Who seals it [default: the user]
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Show sealed months, or what one of them came to
    #[command(after_help = "Example:\n  weir period show 2026-11 --json")]
    Show {
        /// Like 2026-11
        period: Option<String>,
        /// Which ledger.
        #[command(flatten)]
        place: LedgerPlace,
        /// JSON lines
        #[arg(long)]
        json: bool,
    },
}

/// `weir node`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir node list --config /etc/weir/weir.toml\n  weir node lost edge-7 --reason \"its disk went with the pod\""
)]
pub struct NodeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// What `weir node` does.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Each node: up to when everything of it came, and what is missing
    List {
        /// Which ledger.
        #[command(flatten)]
        place: LedgerPlace,
        /// JSON lines
        #[arg(long)]
        json: bool,
    },
    /// State that what a node still had when it was last heard of will not come: it holds no month open any longer
    #[command(after_help = "What comes of it nevertheless counts as anything late does.\n\n\
                      Example:\n  weir node lost edge-7 --reason \"its disk went with the pod\"")]
    Lost {
        /// Its name, as weir node list says it
        node: String,
        /// Who and why.
        #[command(flatten)]
        by: CorrectedBy,
    },
}

/// `weir audit`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  weir audit\n  weir audit --config /etc/weir/weir.toml --json\n  \
                  weir audit --from 2026-11-01 --to 2026-12-01 --account acme\n  weir audit --against postgres://ledger@db/weir")]
pub struct AuditArgs {
    /// Which.
    #[command(flatten)]
    pub place: LedgerPlace,
    /// From this time on, UTC: 2026-01-31 or 2026-01-31T12:00:00Z, in whole hours
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Only this account, by node
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only this node, by account
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Hold this ledger against another one of the same records, bucket by bucket, down to the record
    #[arg(long, value_name = "DATABASE", conflicts_with = "node")]
    pub against: Option<String>,
    /// JSON
    #[arg(long)]
    pub json: bool,
}

/// `weir correct`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir correct add egress_bytes=-1048576 --account acme --at 2026-11-03T14:00:00Z --reason \"our retry, ticket 4711\"\n  \
                  weir correct move --account acme --to-account umbrella --from 2026-11-03 --to 2026-11-04 --reason \"wrong table\"\n  \
                  weir correct undo c1 --reason \"it was right after all\"\n  weir correct list"
)]
pub struct CorrectArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CorrectCommand,
}

/// What `weir correct` does. Nothing is overwritten; what belongs to a sealed month counts in the open one, and names it.
#[derive(Debug, Subcommand)]
pub enum CorrectCommand {
    /// Add to what an account used, or take from it
    Add {
        /// Meter or column, and how much, like egress_bytes=-1048576
        #[arg(required = true, value_name = "METER=AMOUNT")]
        amounts: Vec<String>,
        /// Whose
        #[arg(long, value_name = "ACCOUNT")]
        account: String,
        /// The hour it is about, UTC
        #[arg(long, value_name = "TIME")]
        at: String,
        /// Of this endpoint
        #[arg(long, value_name = "NAME", default_value = "")]
        endpoint: String,
        /// Of this host
        #[arg(long, value_name = "NAME", default_value = "")]
        host: String,
        /// Of this protocol, like h2
        #[arg(long, value_name = "NAME", default_value = "")]
        protocol: String,
        /// Of clients in this country
        #[arg(long, value_name = "CODE", default_value = "")]
        country: String,
        /// Who and why.
        #[command(flatten)]
        by: CorrectedBy,
    },
    /// Give what one account used to another
    Move {
        /// Whose it is said to be
        #[arg(long, value_name = "ACCOUNT")]
        account: String,
        /// Whose it is
        #[arg(long, value_name = "ACCOUNT")]
        to_account: String,
        /// From this time on, UTC, in whole hours
        #[arg(long, value_name = "TIME")]
        from: String,
        /// Up to this time
        #[arg(long, value_name = "TIME")]
        to: String,
        /// Only of this endpoint
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// Only of this host
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Who and why.
        #[command(flatten)]
        by: CorrectedBy,
    },
    /// Take a correction back, by another one
    Undo {
        /// Like c1
        id: String,
        /// Who and why.
        #[command(flatten)]
        by: CorrectedBy,
    },
    /// All corrections, with who and why
    List {
        /// Which ledger.
        #[command(flatten)]
        place: LedgerPlace,
        /// JSON lines
        #[arg(long)]
        json: bool,
    },
}

/// Who states something by hand, where and why.
#[derive(Debug, Args)]
pub struct CorrectedBy {
    /// Which ledger.
    #[command(flatten)]
    pub place: LedgerPlace,
    /// Why; it is kept and shown for ever
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who says so [default: the user]
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
}

/// `weir archive`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir archive run --config /etc/weir/weir.toml\n  weir archive status --config F --from 2026-11-01 --to 2026-12-01\n  \
                  weir archive verify --config F --json\n  weir archive hold add case-7 --account acme --reason \"court order 12/26\" --config F"
)]
pub struct ArchiveArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ArchiveCommand,
}

/// What `weir archive` does.
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// Write records as they come, until it is told to stop
    Run {
        /// Which.
        #[command(flatten)]
        place: LedgerPlace,
        /// End when everything that is there was read; not for a topic, which has no end
        #[arg(long)]
        once: bool,
    },
    /// Say what there is, and whether all records of a time are there; exit code 1 if they are not
    Status {
        /// Which.
        #[command(flatten)]
        place: LedgerPlace,
        /// From this time on, UTC: 2026-01-31 or 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Up to this time [default: as far as anything came]
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Name the files that are the archive, one a line, from its root; others beside them are replaced ones or leftovers of a crash
    Files {
        /// Which.
        #[command(flatten)]
        place: LedgerPlace,
    },
    /// Prove that every file, row and sum is as it was written; exit code 1 if something was deleted, altered or added
    Verify {
        /// Which.
        #[command(flatten)]
        place: LedgerPlace,
        /// The last commit's hash, as it was noted somewhere else: it must be in the chain
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Join small files, let old rows go, sweep leftovers, now
    Compact {
        /// Which.
        #[command(flatten)]
        place: LedgerPlace,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Legal holds: what they cover is neither erased nor grows too old
    Hold {
        /// What to do.
        #[command(subcommand)]
        command: HoldCommand,
    },
}

/// What `weir archive hold` does.
#[derive(Debug, Subcommand)]
pub enum HoldCommand {
    /// Set one
    Add {
        /// What it is called
        name: String,
        /// Only this account's records
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
        /// From this time on, UTC
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Up to this time
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// Who and why.
        #[command(flatten)]
        by: CorrectedBy,
    },
    /// Lift one
    Lift {
        /// What it is called
        name: String,
        /// Which archive.
        #[command(flatten)]
        place: LedgerPlace,
    },
}

/// `weir erase`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir erase --account acme --dry-run --config /etc/weir/weir.toml\n  weir erase --subject 203.0.113.7 --config F",
    group(ArgGroup::new("whose").required(true).args(["account", "subject"]))
)]
pub struct EraseArgs {
    /// Which archive, and the ledger beside it.
    #[command(flatten)]
    pub place: LedgerPlace,
    /// All of an account's
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// All of an address's
    #[arg(long, value_name = "ADDRESS")]
    pub subject: Option<std::net::IpAddr>,
    /// Take rows that keep only the address's network (/24, /48) for theirs too
    #[arg(long, requires = "subject")]
    pub truncated: bool,
    /// Say what would be erased, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Who does it [default: the user]
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `weir token`
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  weir token key portal.key\n  weir token issue --key portal.key --account acme --valid-s 3600\n  \
                  weir token issue --key portal.key --scope admin"
)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What `weir token` does.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a key, and its public half in FILE.pub
    #[command(after_help = "Example:\n  weir token key portal.key")]
    Key {
        /// The file to make; it must not be there yet
        file: PathBuf,
    },
    /// Print a token
    #[command(after_help = "Examples:\n  weir token issue --key portal.key --account acme --valid-s 3600\n  \
                      weir token issue --key /var/lib/weir/portal.key --scope admin --subject jo")]
    Issue {
        /// The key that signs it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// What it lets see [default: usage:read]
        #[arg(long, value_enum)]
        scope: Option<TokenScope>,
        /// Whose usage, with usage:read; whose records, with query
        #[arg(long, value_name = "ACCOUNT", required_unless_present = "scope", required_if_eq("scope", "usage:read"))]
        account: Option<String>,
        /// Who will stand in the list of accesses [default: the account, else the user]
        #[arg(long, value_name = "NAME")]
        subject: Option<String>,
        /// Good for so many seconds from now on
        #[arg(long, value_name = "N", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_622_400))]
        valid_s: u64,
    },
}

/// What a token lets see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenScope {
    /// The usage of one account.
    #[value(name = "usage:read")]
    UsageRead,
    /// The archive, by questions and reports; with --account, that account's records alone.
    Query,
    /// Everything.
    Admin,
}

/// `weir health`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weir health --admin 127.0.0.1:9900")]
pub struct HealthArgs {
    /// The running process's admin address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    pub admin: std::net::SocketAddr,
}

/// `weir demo`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weir demo --seconds 10")]
pub struct DemoArgs {
    /// End after this long; else when interrupted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
}

impl Cli {
    /// Reads the process's arguments. `Err` is the code to exit with, after help (0) or what is wrong (64) was printed.
    pub fn read() -> Result<Cli, ExitCode> {
        Cli::try_parse().map_err(|error| {
            let code = usage_code(&error);
            match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            }
        })
    }
}

/// Asking for help or the version is no error.
fn usage_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { EXIT_USAGE } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_is_accepted_or_ends_with_its_code() {
        for (line, code) in [
            ("weir run --upstream 127.0.0.1:3000", None),
            ("weir run --upstream 127.0.0.1:3000 --listen 127.0.0.1:8081 --state /tmp/x", None),
            ("weir run --config weir.toml --upgrade", None),
            ("weir check --config weir.toml", None),
            ("weir events", None),
            ("weir events --state /tmp/x --follow --json", None),
            ("weir events --file x.json --csv", None),
            ("weir demo --seconds 5", None),
            ("weir journal status --json", None),
            ("weir ledger", None),
            ("weir ledger --config a --state b", Some(64)),
            ("weir usage --account acme --by day --json", None),
            ("weir usage --by week", Some(64)),
            ("weir period close 2026-11 --with-holes", None),
            ("weir period close", Some(64)),
            ("weir node list --json", None),
            ("weir node lost edge-7 --reason gone", None),
            ("weir node lost edge-7", Some(64)),
            ("weir audit --json", None),
            ("weir token key a", None),
            ("weir token issue --key a --account b", None),
            ("weir token issue --key a --scope admin --valid-s 60", None),
            ("weir token issue --key a", Some(64)),
            ("weir token issue --key a --account b --valid-s 0", Some(64)),
            ("weir token issue --key a --account b --scope root", Some(64)),
            ("weir journal export --state a --to b --form protobuf --unshipped", None),
            ("weir journal export --state a", Some(64)),
            ("weir journal", Some(64)),
            ("weir ip 8.8.8.8 --json --explain", None),
            ("weir ip --stdin --database a --database b", None),
            ("weir ip serve --listen 127.0.0.1:0 --snapshot a --public-key b", None),
            ("weir ip decrypt --key a 2001:db8::1", None),
            ("weir ip decrypt --key a", None),
            ("weir ip decrypt 2001:db8::1", Some(64)),
            ("weir key hash --hash-key a", None),
            ("weir key hash --hash-key a secret", Some(64)),
            ("weir ip", Some(64)),
            ("weir ip 8.8.8.8 --stdin", Some(64)),
            ("weir ip 8.8.8.8 --plan a --snapshot b", Some(64)),
            ("weir ip 8.8.8.8 --explain --as-of 2026-01-01", Some(64)),
            ("weir geoip build --plan a --to b --key c", None),
            ("weir geoip diff a b --ranges --json", None),
            ("weir geoip diff a", Some(64)),
            ("weir geoip build --plan a", Some(64)),
            ("weir help", Some(0)),
            ("weir help run", Some(0)),
            ("weir --version", Some(0)),
            ("weir run --help", Some(0)),
            ("weir", Some(64)),
            ("weir run", Some(64)),
            ("weir run --config a --upstream 127.0.0.1:3000", Some(64)),
            ("weir run --config a --listen 127.0.0.1:1", Some(64)),
            ("weir run --config a --state x", Some(64)),
            ("weir run --listen 127.0.0.1:1", Some(64)),
            ("weir check", Some(64)),
            ("weir events --json --csv", Some(64)),
            ("weir events --state a --file b", Some(64)),
            ("weir events --kafka a:1 --topic t --from latest --follow", None),
            ("weir events --kafka a:1 --state b", Some(64)),
            ("weir events --topic t", Some(64)),
            ("weir demo --seconds 0", Some(64)),
            ("weir flow", Some(64)),
        ] {
            let ended = read(line).err().map(|error| usage_code(&error));
            assert_eq!(ended, code, "{line}");
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            let example = format!("weir {}", command.get_name());
            assert!(help.contains("Example") && help.contains(&example), "{help}");
        }
    }

    #[test]
    fn flags_make_a_configuration() {
        let Command::Run(run) = read("weir run --upstream 127.0.0.1:3000 --state /tmp/x").unwrap().command else {
            panic!("run was asked for");
        };
        let config = run.configuration().unwrap();
        assert_eq!(config.state_dir, PathBuf::from("/tmp/x"));
        assert_eq!(config.listeners[0].listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.upstream(config.listeners[0].routes[0].upstream).servers[0].to_string(), "127.0.0.1:3000");
    }
}
