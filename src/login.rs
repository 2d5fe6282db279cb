//! Who we are to a broker that asks for SASL OAUTHBEARER: a token (a JWT) from a file that somebody else renews, as Kubernetes
//! does with projected tokens, and agents of identity providers.
//!
//! It is named by `sasl.oauthbearer.config` = `token_file=PATH`, and read when a client starts and again at four fifths of the
//! token's life. **When there is none, or it is no longer valid**, the client says so, waits, and reads it again.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;

use crate::config::{OAUTH_PROPERTY, token_file};

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The property is missing or names no file.
    #[error("no token for SASL OAUTHBEARER: set {OAUTH_PROPERTY} to token_file=PATH")]
    Unnamed,
    /// It cannot be read.
    #[error("cannot read the token in {path}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Not what was expected in the file; what is there is not shown.
    #[error("{path} holds no JWT with an exp: let the identity provider's token be written there")]
    NoJwt {
        /// The file.
        path: String,
    },
}

/// The token that `sasl.oauthbearer.config` leads to.
pub fn token(config: Option<&str>) -> Result<OAuthToken, Error> {
    let path = config.and_then(token_file).ok_or(Error::Unnamed)?;
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    read(text.trim()).ok_or_else(|| Error::NoJwt { path: path.to_owned() })
}

/// Whether it is true only the broker can tell: what is of interest here is how long it claims to be.
fn read(token: &str) -> Option<OAuthToken> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let expires_s = claims.get("exp")?.as_f64()?;
    let principal = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or("weir");
    // Neither may hold what ends a string in C.
    if token.contains('\0') || principal.contains('\0') {
        return None;
    }
    Some(OAuthToken {
        token: token.to_owned(),
        principal_name: principal.to_owned(),
        lifetime_ms: (expires_s * 1000.0) as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_says_whose_it_is_and_until_when() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = format!("token_file={}", file.path().display());
        std::fs::write(file.path(), jwt(r#"{"sub":"edge","exp":1700000000.5}"#) + "\n").unwrap();
        let token = token(Some(&config)).unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("edge", 1_700_000_000_500));
        assert!(!token.token.ends_with('\n'));
    }

    #[test]
    fn what_is_no_token_is_told_without_showing_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = format!("token_file={}", file.path().display());
        for text in
            ["", "secret", "a.b.c", &jwt("{}"), &jwt(r#"{"exp":"soon"}"#), &jwt("{\"exp\":1,\"sub\":\"a\\u0000\"}")]
        {
            std::fs::write(file.path(), text).unwrap();
            let error = token(Some(&config)).err().unwrap().to_string();
            assert!(error.contains("no JWT") && !error.contains("secret"), "{error}");
        }
        for config in [None, Some(""), Some("token_file="), Some("principal=weir")] {
            assert!(matches!(token(config), Err(Error::Unnamed)), "{config:?}");
        }
        assert!(matches!(token(Some("token_file=/no/such/file")), Err(Error::Io { .. })));
    }
}
