//! `weir events`: every record, one per line.

mod kafka;

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use prost::Message;

use crate::cli::{EventsArgs, EventsForm, EventsSource};
use crate::event::{CSV_HEADER, Position, UsageRecord, csv_line, json_line, text_line};
use crate::journal::{self, Entry, Reader};
use crate::wire;

/// Pause between two looks while following.
const FOLLOW: Duration = Duration::from_millis(200);

/// Prints what is there, and with `--follow` what comes. A reader that goes away (`| head`) ends it.
pub fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let mut out = Printer { form: args.form(), out: std::io::BufWriter::new(std::io::stdout().lock()) };
    let printed = match args.source() {
        EventsSource::State(dir) => journal(&dir, args.follow, &mut out),
        EventsSource::File(file) => sink_file(&file, args.follow, &mut out),
        EventsSource::Kafka(servers) => kafka::topic(&servers, args, &mut out),
    };
    match printed.and_then(|()| Ok(out.out.flush()?)) {
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        printed => printed,
    }
}

struct Printer<W: Write> {
    form: EventsForm,
    out: W,
}

impl<W: Write> Printer<W> {
    fn begin(&mut self) -> anyhow::Result<()> {
        if self.form == EventsForm::Csv {
            writeln!(self.out, "{}", CSV_HEADER.trim_end_matches(','))?;
        }
        Ok(())
    }

    fn print(&mut self, position: &Position<'_>, record: &UsageRecord) -> anyhow::Result<()> {
        let line = match self.form {
            EventsForm::Json => json_line(position, record)?,
            EventsForm::Csv => csv_line(position, record)?,
            EventsForm::Text => text_line(position, record),
        };
        writeln!(self.out, "{line}")?;
        Ok(())
    }
}

/// All epochs and shards of a state directory, whether a process is writing there or not.
fn journal(dir: &Path, follow: bool, out: &mut Printer<impl Write>) -> anyhow::Result<()> {
    if !dir.is_dir() {
        bail!("{} is no state directory: nothing has run there", dir.display());
    }
    out.begin()?;
    let mut readers: Vec<(u32, u16, String, Reader)> = Vec::new();
    loop {
        let epochs = journal::list(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for epoch in epochs {
            for shard in epoch.shards {
                if !readers.iter().any(|(e, s, ..)| (*e, *s) == (epoch.epoch, shard.shard)) {
                    let Some(reader) = shard.reader(0)? else { continue };
                    readers.push((epoch.epoch, shard.shard, shard.node, reader));
                }
            }
        }
        for (epoch, shard, node, reader) in &mut readers {
            while let Some(entry) = reader.next()? {
                match entry {
                    Entry::Frame(frame) => {
                        let position = Position { node, epoch: *epoch, shard: *shard, seq: frame.seq };
                        let record = UsageRecord::decode(frame.payload.as_slice())
                            .with_context(|| format!("record {} of shard {shard} in epoch {epoch}", frame.seq))?;
                        out.print(&position, &record)?;
                    }
                    Entry::Damaged(range) => {
                        eprintln!("weir: epoch {epoch} shard {shard}: {range:?} is damaged and lost")
                    }
                }
            }
        }
        if !follow {
            return Ok(());
        }
        out.out.flush()?;
        std::thread::sleep(FOLLOW);
    }
}

/// A file of a file sink; the form is told from its first octet.
fn sink_file(path: &Path, follow: bool, out: &mut Printer<impl Write>) -> anyhow::Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut first = [0];
    let is_json = file.read(&mut first)? == 0 || first == *b"{";
    file.seek(SeekFrom::Start(0))?;
    out.begin()?;
    let mut pending = Vec::new();
    let mut reader = BufReader::new(file);
    loop {
        reader.read_to_end(&mut pending)?;
        let used = if is_json { json_lines(&pending, out) } else { batches(&pending, out) };
        pending.drain(..used.with_context(|| format!("in {}", path.display()))?);
        if !follow {
            if !pending.is_empty() {
                eprintln!("weir: {}: the last {} bytes are no whole record", path.display(), pending.len());
            }
            return Ok(());
        }
        out.out.flush()?;
        std::thread::sleep(FOLLOW);
    }
}

fn json_lines(bytes: &[u8], out: &mut Printer<impl Write>) -> anyhow::Result<usize> {
    let mut used = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take_while(|line| line.ends_with(b"\n")) {
        used += line.len();
        match out.form {
            EventsForm::Json => out.out.write_all(line)?,
            form => {
                let value: serde_json::Value = serde_json::from_slice(line).context("a line is no JSON")?;
                writeln!(out.out, "{}", crate::event::from_json(&value, form == EventsForm::Csv))?;
            }
        }
    }
    Ok(used)
}

fn batches(bytes: &[u8], out: &mut Printer<impl Write>) -> anyhow::Result<usize> {
    let mut used = 0;
    // A batch that is still being written cannot be told from a torn one: it is left for the next look.
    for (whole, batch) in wire::batches(bytes) {
        used += whole.len();
        for (seq, record) in (batch.first_seq..).zip(batch.records) {
            let position = Position {
                node: batch.node,
                epoch: u32::try_from(batch.epoch).unwrap_or(0),
                shard: u16::try_from(batch.shard).unwrap_or(0),
                seq: u64::try_from(seq).unwrap_or(0),
            };
            out.print(&position, &record.into())?;
        }
    }
    Ok(used)
}
