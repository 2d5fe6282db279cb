//! Nodes that somebody has given up: what they still had when they were last heard of will not come.

use super::query::{self, number, text};
use super::{Error, Store, failed};

/// A node of which nothing more will come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostNode {
    /// Its name.
    pub node: String,
    /// It was last heard of then, µs: what it says later holds again.
    pub until_us: i64,
    /// When somebody said so, µs.
    pub at_us: i64,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

impl Store {
    /// States that a node is lost. Saying it again of the same node and time changes nothing.
    pub async fn lose_node(&self, lost: &LostNode) -> Result<(), Error> {
        let sql = "INSERT INTO lost_nodes (node, until, at, actor, reason) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        sqlx::query(sql)
            .bind(lost.node.clone())
            .bind(lost.until_us)
            .bind(lost.at_us)
            .bind(lost.actor.clone())
            .bind(lost.reason.clone())
            .execute(&self.pool)
            .await
            .map_err(failed("state that a node is lost"))?;
        Ok(())
    }

    /// All lost nodes.
    pub async fn lost_nodes(&self) -> Result<Vec<LostNode>, Error> {
        let mut connection = self.pool.acquire().await.map_err(failed("connect"))?;
        lost_nodes(&mut connection).await
    }
}

pub(super) async fn lost_nodes(connection: &mut sqlx::AnyConnection) -> Result<Vec<LostNode>, Error> {
    let rows = query::rows(connection, "read lost nodes", "SELECT * FROM lost_nodes ORDER BY node, until").await?;
    rows.iter()
        .map(|row| {
            Ok(LostNode {
                node: text(row, "node")?,
                until_us: number(row, "until")?,
                at_us: number(row, "at")?,
                actor: text(row, "actor")?,
                reason: text(row, "reason")?,
            })
        })
        .collect()
}
