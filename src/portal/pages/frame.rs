//! What every page has: head, navigation, title; and the page of an error.

use axum::http::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::super::{Problem, Viewer};
use super::assets;

/// Where one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Usage,
    Sessions,
    Alerts,
    Audit,
    Archive,
}

/// The head, and whatever comes below it.
fn document(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · weir" }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.path());
                link rel="stylesheet" href=(assets::UPLOT_STYLE.path());
                link rel="stylesheet" href=(assets::STYLE.path());
                script src=(assets::UPLOT.path()) defer {}
                script src=(assets::SCRIPT.path()) defer {}
            }
            body { (body) }
        }
    }
}

/// A page for somebody who is known. `account`: whose usage it is about, kept in the links between pages.
pub(super) fn page(viewer: &Viewer, here: Place, title: &str, account: Option<&str>, main: Markup) -> Markup {
    let mut links = vec![
        (Place::Usage, "Usage", "/"),
        (Place::Sessions, "Sessions", "/sessions"),
        (Place::Alerts, "Alerts", "/alerts"),
    ];
    if viewer.is_operator() {
        links.push((Place::Audit, "Audit", "/audit"));
    }
    if viewer.may_ask() {
        links.push((Place::Archive, "Archive", "/archive"));
    }
    document(
        title,
        html! {
            a.skip href="#main" { "Skip to content" }
            header.top {
                div.bar {
                    a.brand href="/" { (mark()) span { "weir" } }
                    nav aria-label="Pages" {
                        ul {
                            @for (place, name, path) in links {
                                li { a href=(link(path, &[("account", account.filter(|_| viewer.is_operator()))])) aria-current=[(place == here).then_some("page")] { (name) } }
                            }
                        }
                    }
                    form.out method="post" action="/logout" {
                        span.who title=(viewer.subject) { (viewer.account.as_deref().unwrap_or("operator")) }
                        button.plain type="submit" { "Sign out" }
                    }
                }
            }
            main #main tabindex="-1" { (main) }
            footer.foot { p { "All times are UTC. Bytes are counted in decimal: 1 GB = 1,000,000,000 B." } }
        },
    )
}

/// A page for somebody who is not known yet.
pub(super) fn outside(title: &str, main: Markup) -> Markup {
    document(title, html! { main #main .alone tabindex="-1" { p.brand { (mark()) span { "weir" } } (main) } })
}

/// What went wrong, and what to do about it.
pub(super) fn problem(problem: &Problem) -> Markup {
    let (title, action) = match problem.status {
        StatusCode::UNAUTHORIZED => ("Please sign in", Some(("/login", "Sign in"))),
        StatusCode::FORBIDDEN => ("This is not yours to see", Some(("/", "To your usage"))),
        StatusCode::NOT_FOUND => ("There is nothing here", Some(("/", "To your usage"))),
        StatusCode::BAD_REQUEST => ("This address cannot be understood", Some(("/", "To your usage"))),
        StatusCode::TOO_MANY_REQUESTS => ("One moment, please", None),
        status if status.is_server_error() => ("This does not work right now", None),
        _ => ("This does not work", Some(("/", "To your usage"))),
    };
    outside(
        title,
        html! {
            h1 { (title) }
            p { (capital(&problem.detail)) }
            @if let Some(seconds) = problem.retry_after_s {
                p { "Try again in " (seconds) " seconds. Nothing is lost meanwhile: what flows is counted all the same." }
            }
            @if let Some((path, name)) = action { p { a.button href=(path) { (name) } } }
            p.quiet { "Status " (problem.status.as_u16()) }
        },
    )
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// The picture of a weir: what stands, and what flows over.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" width="24" height="24" aria-hidden="true" focusable="false" {
            path d="M2 9c3 0 3-2 6-2s3 2 6 2 3-2 6-2h2" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" {}
            path d="M5 13h14v7H5z" fill="currentColor" {}
        }
    }
}

/// A path with those parameters that have a value.
pub(super) fn link(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A trail from the whole to the part that one looks at.
pub(super) fn trail(steps: &[(String, String)], here: &str) -> Markup {
    html! {
        nav.trail aria-label="Breadcrumb" {
            ol {
                @for (name, path) in steps { li { a href=(path) { (name) } } }
                li { span aria-current="page" { (here) } }
            }
        }
    }
}
