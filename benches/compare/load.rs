//! Load generator for the rows that h2load cannot drive: new connections, uploads, large plain bodies.
//!
//! `load get|post ADDRESS PATH BODY_BYTES CONNECTIONS SECONDS [--close]`
//!
//! Every connection is a thread with a blocking socket; each repeats its request until the time is up and
//! then finishes the one under way, so the count printed is exactly what the proxy served. `get` checks
//! that each response is a 200 with a body of BODY_BYTES; `post` sends BODY_BYTES and checks for a 200.
//! `--close` opens a new connection for each request and waits for the proxy to close it.
//! Prints one line of JSON: requests, body_bytes, errors, first_error, seconds. Exit code 1 if any error.
//! Plain rustc builds it: no dependencies.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const READ_BUFFER_BYTES: usize = 256 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const ERRORS_MAX: u64 = 10;
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Plan {
    address: String,
    request: Vec<u8>,
    response_body_bytes: Option<u64>,
    deadline: Instant,
    close: bool,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    body_bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((plan, connections)) = parse(&arguments) else {
        eprintln!("usage: load get|post ADDRESS PATH BODY_BYTES CONNECTIONS SECONDS [--close]");
        return ExitCode::from(64);
    };
    let started = Instant::now();
    let mut total = Tally::default();
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let plan = plan.clone();
            std::thread::spawn(move || drive(&plan))
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(tally) => add(&mut total, tally),
            Err(_) => total.errors += 1,
        }
    }
    println!(
        "{{\"requests\":{},\"body_bytes\":{},\"errors\":{},\"first_error\":{:?},\"seconds\":{:.6}}}",
        total.requests,
        total.body_bytes,
        total.errors,
        total.first_error.unwrap_or_default(),
        started.elapsed().as_secs_f64()
    );
    if total.errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(arguments: &[String]) -> Option<(Plan, usize)> {
    let [
        method,
        address,
        path,
        body_bytes,
        connections,
        seconds,
        rest @ ..,
    ] = arguments
    else {
        return None;
    };
    let close = match rest {
        [] => false,
        [flag] if flag == "--close" => true,
        _ => return None,
    };
    let body_bytes: usize = body_bytes.parse().ok()?;
    let connections: usize = connections.parse().ok()?;
    let seconds: f64 = seconds.parse().ok()?;
    let last = if close { "Connection: close\r\n" } else { "" };
    let (request, response_body_bytes) = match method.as_str() {
        "get" => {
            let head = format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\n{last}\r\n");
            (head.into_bytes(), Some(body_bytes as u64))
        }
        "post" => {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: bench.test\r\nContent-Length: {body_bytes}\r\n{last}\r\n"
            );
            let mut request = head.into_bytes();
            request.resize(request.len() + body_bytes, b'w');
            (request, None)
        }
        _ => return None,
    };
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    let plan = Plan {
        address: address.clone(),
        request,
        response_body_bytes,
        deadline,
        close,
    };
    Some((plan, connections))
}

fn add(total: &mut Tally, tally: Tally) {
    total.requests += tally.requests;
    total.body_bytes += tally.body_bytes;
    total.errors += tally.errors;
    if total.first_error.is_none() {
        total.first_error = tally.first_error;
    }
}

/// One connection at a time until the deadline.
fn drive(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut buffer = vec![0_u8; READ_BUFFER_BYTES];
    let mut kept: Option<TcpStream> = None;
    while Instant::now() < plan.deadline && tally.errors < ERRORS_MAX {
        match exchange(plan, kept.take(), &mut buffer) {
            Ok((body_bytes, connection)) => {
                tally.requests += 1;
                tally.body_bytes += body_bytes;
                kept = connection;
            }
            Err(error) => {
                tally.errors += 1;
                tally.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }
    tally
}

/// One request and its whole response; returns the connection if it may be used again.
fn exchange(
    plan: &Plan,
    kept: Option<TcpStream>,
    buffer: &mut [u8],
) -> Result<(u64, Option<TcpStream>)> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => connect(&plan.address)?,
    };
    stream.write_all(&plan.request)?;
    let (head_bytes, mut have) = read_head(&mut stream, buffer)?;
    let announced = check_head(&buffer[..head_bytes])?;
    if plan
        .response_body_bytes
        .is_some_and(|expected| expected != announced)
    {
        return Err(invalid(format!("content-length is {announced}")));
    }
    have -= head_bytes;
    let mut body_bytes = have as u64;
    while body_bytes < announced {
        let read = stream.read(buffer)?;
        if read == 0 {
            return Err(invalid(format!(
                "body ended after {body_bytes} of {announced} bytes"
            )));
        }
        body_bytes += read as u64;
    }
    if body_bytes > announced {
        return Err(invalid(format!(
            "body has {body_bytes} bytes, announced were {announced}"
        )));
    }
    if !plan.close {
        return Ok((body_bytes, Some(stream)));
    }
    match stream.read(buffer)? {
        0 => Ok((body_bytes, None)),
        more => Err(invalid(format!(
            "{more} bytes after the end of the response"
        ))),
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    Ok(stream)
}

/// Reads until the empty line; returns the head's length and how much was read in all.
fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(usize, usize)> {
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..])?;
        if read == 0 {
            return Err(invalid(
                "connection closed inside the response head".to_owned(),
            ));
        }
        let from = have.saturating_sub(3);
        have += read;
        if let Some(at) = buffer[from..have]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            return Ok((from + at + 4, have));
        }
        if have > HEAD_BYTES_MAX {
            return Err(invalid("response head is too long".to_owned()));
        }
    }
}

/// The announced body length of a 200 response.
fn check_head(head: &[u8]) -> Result<u64> {
    let head = std::str::from_utf8(head).map_err(|error| invalid(error.to_string()))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(invalid(format!("status is {status:?}")));
    }
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            return value
                .trim()
                .parse()
                .map_err(|_| invalid(format!("bad {line:?}")));
        }
    }
    Err(invalid("response has no content-length".to_owned()))
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}
