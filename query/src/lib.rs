//! Questions to the archive, in SQL and by name, answered by DataFusion.
//!
//! ```text
//! flags ─ setting ─ access log: begun ─ archive: manifest ─ engine: tables in scope ─ question: plan ─ rows ─ sheet ─ access log: ended
//! ```
//!
//! * what may be asked: [`question`] (reading only, parameters as values), [`scope`] (whose and when), [`fence`] (why nothing gets around it)
//! * what is looked at: [`archive`], [`table`], [`pruning`], [`views`], [`functions`]
//! * what may be used: [`engine`], [`memory`]
//! * what an answer says: [`sheet`], [`completeness`], [`report`]
//! * who asked: [`access_log`], [`hidden`], [`recorded`]
//! * the command: [`cli`], [`setting`], [`command`], [`progress`]

pub mod access_log;
pub mod archive;
pub mod cli;
pub mod command;
pub mod completeness;
pub mod engine;
pub mod fence;
pub mod functions;
pub mod hidden;
pub mod memory;
pub mod progress;
pub mod pruning;
pub mod question;
pub mod recorded;
pub mod report;
pub mod scope;
pub mod setting;
pub mod sheet;
pub mod table;
pub mod views;
