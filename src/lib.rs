//! weir: a traffic-inspection sidecar that counts every byte of every request and session, exactly.
//!
//! The map, in the direction of the flow. What a module may import is above it or in the vocabulary; a test holds it so.
//!
//! * vocabulary: [`ids`], [`units`], [`clock`], [`event`], [`causes`], [`metrics`], [`sheet`], [`config`]
//! * mechanisms: [`meter`] (whose octets are these), [`journal`] (what survives), [`attribution`] (who pays),
//!   [`enrichment`] (what is known of an address), [`screening`] (what follows from it), [`privacy`] (what is kept of it), [`wire`]
//!   (messages, and the proof that they are all there), [`login`] (who we are to a broker), [`sink`], [`source`] (a topic to read from),
//!   [`store`] (the database of the ledger)
//! * stages: [`proxy`] (the data plane), [`shipper`] (journal → sink), [`rollup`] (records → usage), [`archive`] (records → Parquet), [`portal`] (usage over HTTP), [`admin`] (the operator's listener)
//! * assembly: [`app`], [`handover`], and the commands [`cli`], [`events`], [`journal_command`], [`ip`],
//!   [`geoip_command`], [`ledger_command`], [`archive_command`], [`usage_command`], [`audit_command`], [`correct_command`],
//!   [`node_command`], [`token_command`], [`key_command`], [`query_command`] (runs another program), [`demo`]

pub mod causes;
pub mod clock;
pub mod config;
pub mod event;
pub mod ids;
pub mod metrics;
pub mod sheet;
pub mod units;

pub mod attribution;
pub mod enrichment;
pub mod journal;
pub mod login;
pub mod meter;
pub mod privacy;
pub mod screening;
pub mod sink;
pub mod source;
pub mod store;
pub mod wire;

pub mod admin;
pub mod alerts;
pub mod archive;
pub mod portal;
pub mod proxy;
pub mod rollup;
pub mod shipper;

pub mod app;
pub mod archive_command;
pub mod audit_command;
pub mod cli;
pub mod correct_command;
pub mod demo;
pub mod events;
pub mod geoip_command;
pub mod handover;
pub mod ip;
pub mod journal_command;
pub mod key_command;
pub mod ledger_command;
pub mod node_command;
pub mod query_command;
pub mod token_command;
pub mod usage_command;
