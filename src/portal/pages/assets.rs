//! Files that pages are made with, in the binary. A name holds the hash of its content, so a browser keeps it for ever and never has an
//! old one. uPlot (MIT, `assets/uplot/LICENSE`) is the released file of npm, unchanged.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::super::Problem;
use crate::ids::hex;

/// A file.
pub(super) struct Asset {
    kind: &'static str,
    bytes: &'static [u8],
    path: LazyLock<String>,
}

macro_rules! asset {
    ($name:literal, $extension:literal, $kind:literal, $file:literal) => {
        Asset {
            kind: $kind,
            bytes: include_bytes!($file),
            path: LazyLock::new(|| {
                let hash = blake3::hash(include_bytes!($file));
                format!("/static/{}.{}.{}", $name, hex(&hash.as_bytes()[..8]), $extension)
            }),
        }
    };
}

pub(super) static STYLE: Asset = asset!("weir", "css", "text/css; charset=utf-8", "assets/weir.css");
pub(super) static SCRIPT: Asset = asset!("weir", "js", "text/javascript; charset=utf-8", "assets/weir.js");
pub(super) static ICON: Asset = asset!("icon", "svg", "image/svg+xml", "assets/icon.svg");
pub(super) static UPLOT: Asset =
    asset!("uplot", "js", "text/javascript; charset=utf-8", "assets/uplot/uPlot.iife.min.js");
pub(super) static UPLOT_STYLE: Asset = asset!("uplot", "css", "text/css; charset=utf-8", "assets/uplot/uPlot.min.css");
static UPLOT_LICENSE: Asset = asset!("uplot-license", "txt", "text/plain; charset=utf-8", "assets/uplot/LICENSE");

static ALL: [&Asset; 6] = [&STYLE, &SCRIPT, &ICON, &UPLOT, &UPLOT_STYLE, &UPLOT_LICENSE];

impl Asset {
    /// Where it is served.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// One of them, by its name of today.
pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let asset = ALL.iter().find(|asset| asset.path().strip_prefix("/static/") == Some(&name));
    let Some(asset) = asset else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no such file: a newer release has other ones, load the page again",
        ));
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    Ok((headers, asset.bytes).into_response())
}
