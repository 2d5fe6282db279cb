//! Emptying what single records say of people. Nothing that is billed by is touched: sums are in other tables, and blocks keep their
//! records, with their bytes, accounts, hosts and positions.

use bytes::Bytes;
use sqlx::Row;

use super::block::{repack, unpack};
use super::query::text;
use super::{Error, Store, failed};
use crate::event::UsageRecord;

impl Store {
    /// Empties the records that are theirs, of one account's blocks or of all; says how many. With `is_rehearsal` only that.
    pub async fn redact(
        &self,
        account: Option<&str>,
        is_theirs: impl Fn(&UsageRecord) -> bool,
        is_rehearsal: bool,
    ) -> Result<u64, Error> {
        let what = "empty records";
        let mut emptied = 0;
        loop {
            let rows = match account {
                Some(account) => {
                    let sql = "SELECT DISTINCT block AS id FROM block_accounts WHERE account = $1";
                    self.rows_of(what, sql, account).await?
                }
                None => self.rows(what, "SELECT id FROM blocks").await?,
            };
            let mut is_whole = true;
            for row in &rows {
                match self.redact_block(&text(row, "id")?, &is_theirs, is_rehearsal).await? {
                    Some(changed) => emptied += changed,
                    None => is_whole = false,
                }
            }
            // Blocks that were joined since they were listed are in others now (`merge.rs`): all are looked at again.
            if is_whole || is_rehearsal {
                break;
            }
        }
        if emptied > 0 && !is_rehearsal && self.is_sqlite {
            // What was there before is in free pages and in the log of the database; PostgreSQL's VACUUM comes by itself.
            for sql in ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"] {
                sqlx::raw_sql(sql).execute(&self.pool).await.map_err(failed(what))?;
            }
        }
        Ok(emptied)
    }

    /// How many records of a block are emptied by this; none: it is no longer there.
    async fn redact_block(
        &self,
        id: &str,
        is_theirs: &impl Fn(&UsageRecord) -> bool,
        is_rehearsal: bool,
    ) -> Result<Option<u64>, Error> {
        let what = "empty records";
        // Whoever joins blocks waits: it would write again what it read before.
        let mut to = self.begin_alone().await?;
        let found = sqlx::query("SELECT bytes FROM blocks WHERE id = $1").bind(id.to_owned());
        let Some(found) = found.fetch_optional(&mut *to).await.map_err(failed(what))? else { return Ok(None) };
        let bytes: Vec<u8> = found.try_get("bytes").map_err(failed(what))?;
        let mut records = unpack(&bytes).map_err(|reason| Error::Damaged(format!("block {id}: {reason}")))?;
        let mut changed = 0;
        for record in records.iter_mut().filter(|record| is_theirs(record)) {
            let before = record.clone();
            empty(record);
            changed += u64::from(*record != before);
        }
        if changed == 0 || is_rehearsal {
            return Ok(Some(changed));
        }
        let bytes = repack(&records).map_err(|reason| Error::Damaged(format!("block {id}: {reason}")))?;
        let update = sqlx::query("UPDATE blocks SET bytes = $1 WHERE id = $2").bind(bytes).bind(id.to_owned());
        update.execute(&mut *to).await.map_err(failed(what))?;
        to.commit().await.map_err(failed(what))?;
        Ok(Some(changed))
    }
}

fn empty(record: &mut UsageRecord) {
    (record.client_ip, record.peer_ip, record.client_port) = (Bytes::new(), Bytes::new(), 0);
    for text in [
        &mut record.path,
        &mut record.sni,
        &mut record.tls_subject,
        &mut record.city,
        &mut record.region,
        &mut record.as_org,
    ] {
        text.clear();
    }
}
