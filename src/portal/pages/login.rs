//! Where somebody without a token is sent.

use axum::http::Uri;
use axum::response::Response;
use maud::html;

use super::super::Problem;
use super::super::asked::Asked;
use super::{frame, html};

/// `GET /login`
pub(super) async fn page(uri: Uri) -> Result<Response, Problem> {
    let is_refused = Asked::of(&uri, &["refused"])?.text("refused").is_some();
    Ok(html(frame::outside(
        "Sign in",
        html! {
            h1 { "Sign in" }
            @if is_refused { p.alarm role="alert" #refused { "This token is not good: it has expired, or was copied only in part. Ask for a new one." } }
            form.login method="post" action="/login" {
                label for="token" { "Access token" }
                input #token type="password" name="token" required autocomplete="current-password" spellcheck="false" autocapitalize="none" aria-describedby=(if is_refused { "refused hint" } else { "hint" }) aria-invalid=[is_refused.then_some("true")];
                p.quiet #hint { "Whoever runs your platform gives you one. It begins with " code { "weir1." } }
                button type="submit" { "Sign in" }
            }
            details {
                summary { "You run this ledger yourself?" }
                p { "When " code { "weir ledger" } " starts it prints a link that lets you in once, within ten minutes. Restart it for another one." }
            }
        },
    )))
}
