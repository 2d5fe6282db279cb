//! `/v1/query` and `/v1/reports/{name}`: questions to the archive and their answers. Who answers them stands in `queries.rs`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get};

use super::accesses::Shown;
use super::asked::Asked;
use super::export::Pieces;
use super::queries::{Answer, Queries, Question, REPORTS};
use super::{Portal, Problem, Viewer};

/// What `GET /v1/query` knows.
pub(super) const QUERY: [&str; 7] = ["sql", "parameters", "account", "from", "to", "purpose", "format"];
/// What `GET /v1/reports/{name}` knows.
pub(super) const REPORT: [&str; 6] = ["parameters", "account", "from", "to", "purpose", "format"];

/// Of a question.
const BODY_BYTES_MAX: usize = 128 << 10;

/// Forms of an answer, and how each is called on the way.
const QUERY_FORMS: [(&str, &str); 3] = [
    ("json", "application/json"),
    ("csv", "text/csv; charset=utf-8; header=present"),
    ("parquet", "application/vnd.apache.parquet"),
];
const REPORT_FORMS: [(&str, &str); 3] = [
    ("json", "application/json"),
    ("csv", "text/csv; charset=utf-8; header=present"),
    ("html", "text/html; charset=utf-8"),
];

/// `/v1/query`.
pub(super) fn query() -> MethodRouter<Arc<Portal>> {
    get(get_query).post(post_query).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// `/v1/reports/{name}`.
pub(super) fn report() -> MethodRouter<Arc<Portal>> {
    get(get_report)
}

async fn get_query(State(portal): State<Arc<Portal>>, viewer: Viewer, uri: Uri) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &QUERY)?;
    answered(&portal, &viewer, question(&asked)?).await
}

/// JSON, or a form of a page.
async fn post_query(
    State(portal): State<Arc<Portal>>,
    viewer: Viewer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let question = if kind.starts_with("application/x-www-form-urlencoded") {
        form(&body)?
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::bad(format!("the body is no question in JSON: {error}")))?
    };
    answered(&portal, &viewer, question).await
}

async fn get_report(
    State(portal): State<Arc<Portal>>,
    viewer: Viewer,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &REPORT)?;
    answered(&portal, &viewer, Question { report: report_name(&name)?, ..question(&asked)? }).await
}

/// A report there is.
pub(super) fn report_name(name: &str) -> Result<String, Problem> {
    let known = REPORTS.iter().find(|(known, _)| *known == name);
    let names = || REPORTS.map(|(name, _)| name).join(", ");
    let known = known.ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no such report; there are {}", names()))
    })?;
    Ok(known.0.to_owned())
}

/// Of an URL's parameters.
pub(super) fn question(asked: &Asked) -> Result<Question, Problem> {
    let text = |name| asked.text(name).map(str::to_owned);
    Ok(Question {
        sql: text("sql").unwrap_or_default(),
        report: String::new(),
        parameters: parameters(asked.text("parameters").unwrap_or_default())?,
        account: text("account"),
        from: text("from"),
        to: text("to"),
        purpose: text("purpose").unwrap_or_default(),
        format: text("format"),
    })
}

/// Of a page's form: what is left empty is not given.
pub(super) fn form(body: &[u8]) -> Result<Question, Problem> {
    let mut question = Question::default();
    for (name, value) in form_urlencoded::parse(body).filter(|(_, value)| !value.is_empty()) {
        let value = value.into_owned();
        match &*name {
            "sql" => question.sql = value,
            "parameters" => question.parameters = parameters(&value)?,
            "account" => question.account = Some(value),
            "from" => question.from = Some(value),
            "to" => question.to = Some(value),
            "purpose" => question.purpose = value,
            "format" => question.format = Some(value),
            _ => {
                return Err(Problem::bad(format!("{name:?} is no part of a question; there are {}", QUERY.join(", "))));
            }
        }
    }
    Ok(question)
}

/// A JSON object of texts.
fn parameters(text: &str) -> Result<std::collections::BTreeMap<String, String>, Problem> {
    if text.trim().is_empty() {
        return Ok(std::collections::BTreeMap::new());
    }
    serde_json::from_str(text)
        .map_err(|_| Problem::bad("`parameters` is no JSON object of texts, like {\"id\":\"0192…\"}"))
}

async fn answered(portal: &Arc<Portal>, viewer: &Viewer, mut question: Question) -> Result<Response, Problem> {
    let (forms, name) = match question.report.as_str() {
        "" if question.sql.trim().is_empty() => return Err(Problem::bad("`sql` is not there: what is the question?")),
        "" => (&QUERY_FORMS, "query"),
        report => (&REPORT_FORMS, report),
    };
    let format = question.format.clone().unwrap_or_else(|| "json".to_owned());
    let Some((format, kind)) = forms.iter().find(|(known, _)| *known == format) else {
        return Err(Problem::bad(format!("`format` is one of {}", forms.map(|(name, _)| name).join(", "))));
    };
    question.format = Some((*format).to_owned());
    let name = format!("weir-{name}.{format}");
    let answer = ask(portal, viewer, &question).await?;
    let mut response = Response::new(body(answer));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if *format != "json"
        && let Ok(disposition) = format!("attachment; filename=\"{name}\"").parse()
    {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    // How many there are is in the archive's own access log.
    response.extensions_mut().insert(Shown(-1));
    Ok(response)
}

/// For whoever may ask, where there is an archive.
pub(super) async fn ask(portal: &Portal, viewer: &Viewer, question: &Question) -> Result<Answer, Problem> {
    queries(portal)?.ask(viewer, question, portal.settings.request_timeout.as_secs()).await
}

fn queries(portal: &Portal) -> Result<&Queries, Problem> {
    let none = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "there is no archive here: [archive] in the configuration says where one is",
        )
    };
    portal.queries.as_ref().ok_or_else(none)
}

fn body(answer: Answer) -> Body {
    let Some(mut rest) = answer.rest else { return Body::from(answer.head) };
    let (to, pieces) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut piece = Some(Ok(Bytes::from(answer.head)));
        while let Some(next) = piece {
            let is_last = next.is_err();
            // Who is gone takes the process along: `rest` ends here.
            if to.send(next).await.is_err() || is_last {
                return;
            }
            piece = rest.next().await;
        }
    });
    Body::new(Pieces(pieces))
}
