//! Who looks: a customer, who sees one account, or an operator, who sees all.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::request::Parts;

use super::Portal;
use super::problem::Problem;
use super::token::{Claims, Scope};

/// The cookie that the pages bring the token in.
pub const COOKIE_NAME: &str = "weir_token";

/// Who looks. As an extractor of a handler it is what the guard found in the token; nothing else of a request says whose usage it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// Name, as it stands in the list of accesses.
    pub subject: String,
    /// What may be seen.
    pub scope: Scope,
    /// The one account that may be seen. None: an operator, who sees all.
    pub account: Option<String>,
    /// Whether there is an archive that can be asked.
    pub has_archive: bool,
}

impl Viewer {
    pub(super) fn of(claims: Claims, has_archive: bool) -> Self {
        Self { subject: claims.subject, scope: claims.scope, account: claims.account, has_archive }
    }

    /// Whether this is an operator.
    pub fn is_operator(&self) -> bool {
        self.scope == Scope::Admin && self.account.is_none()
    }

    /// An error for everybody but operators.
    pub fn operator(&self) -> Result<(), Problem> {
        if self.is_operator() {
            Ok(())
        } else {
            Err(Problem::forbidden("this is for operators: a token with scope admin"))
        }
    }

    /// Whose records a question to the archive is about, where a request asks for `asked`. It takes the scope `query`, or `admin`.
    pub fn asks(&self, asked: Option<&str>) -> Result<Option<String>, Problem> {
        match (self.scope, &self.account, asked) {
            (Scope::UsageRead, ..) => Err(Problem::forbidden("this takes a token with scope query")),
            (Scope::Query, Some(own), Some(asked)) if own != asked => {
                Err(Problem::forbidden("this token shows another account: leave `account` out"))
            }
            (Scope::Query, Some(own), _) => Ok(Some(own.clone())),
            (Scope::Query | Scope::Admin, ..) => Ok(asked.map(str::to_owned)),
        }
    }

    /// Whether this one may ask the archive.
    pub fn may_ask(&self) -> bool {
        self.has_archive && self.scope != Scope::UsageRead
    }

    /// Whose usage an answer is about, where a request asks for `asked`: a customer's own and no other, an operator's choice, or all.
    pub fn account(&self, asked: Option<&str>) -> Result<Option<String>, Problem> {
        match (&self.account, asked) {
            (Some(own), Some(asked)) if own != asked => {
                Err(Problem::forbidden("this token shows another account: leave `account` out"))
            }
            (Some(own), _) => Ok(Some(own.clone())),
            (None, _) => {
                self.operator()?;
                Ok(asked.map(str::to_owned))
            }
        }
    }
}

impl FromRequestParts<std::sync::Arc<Portal>> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &std::sync::Arc<Portal>) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::unauthorised("a token is needed"))
    }
}

/// The token that a request brings: as bearer, or in the cookie.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    if let Some(given) = headers.get(AUTHORIZATION) {
        let (scheme, token) = given.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(scope: Scope, account: Option<&str>) -> Viewer {
        Viewer { subject: "jo".into(), scope, account: account.map(str::to_owned), has_archive: true }
    }

    #[test]
    fn an_account_comes_from_the_token_alone() {
        let (customer, operator) = (viewer(Scope::UsageRead, Some("acme")), viewer(Scope::Admin, None));
        assert_eq!(customer.account(None).unwrap().as_deref(), Some("acme"));
        assert_eq!(customer.account(Some("acme")).unwrap().as_deref(), Some("acme"));
        for foreign in ["globex", "", "ACME", "acme ", "%"] {
            assert!(customer.account(Some(foreign)).is_err(), "{foreign}");
        }
        assert!(customer.operator().is_err());
        assert_eq!(operator.account(None).unwrap(), None);
        assert_eq!(operator.account(Some("globex")).unwrap().as_deref(), Some("globex"));
        // No token says so; if one did, it would see nothing.
        assert!(viewer(Scope::UsageRead, None).account(None).is_err());
    }

    #[test]
    fn questions_take_their_scope_and_stay_within_its_account() {
        let (one, all) = (viewer(Scope::Query, Some("acme")), viewer(Scope::Query, None));
        assert_eq!(one.asks(None).unwrap().as_deref(), Some("acme"));
        assert_eq!(one.asks(Some("acme")).unwrap().as_deref(), Some("acme"));
        assert!(one.asks(Some("globex")).is_err() && one.asks(Some("")).is_err());
        assert_eq!(all.asks(None).unwrap(), None);
        assert_eq!(all.asks(Some("globex")).unwrap().as_deref(), Some("globex"));
        assert!(viewer(Scope::UsageRead, Some("acme")).asks(None).is_err());
        assert_eq!(viewer(Scope::Admin, None).asks(None).unwrap(), None);
        // To ask the archive is not to see everybody's usage.
        assert!(all.account(None).is_err() && all.operator().is_err());
    }

    #[test]
    fn tokens_are_found_where_they_belong() {
        let check = |name: &'static str, value: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(token(&headers), expected, "{name}: {value}");
        };
        check("authorization", "Bearer weir1.x", Some("weir1.x"));
        check("authorization", "bearer  weir1.x ", Some("weir1.x"));
        check("authorization", "Basic weir1.x", None);
        check("cookie", "a=b; weir_token=weir1.x; c=d", Some("weir1.x"));
        check("cookie", "xweir_token=weir1.x", None);
        check("x-token", "weir1.x", None);
    }
}
