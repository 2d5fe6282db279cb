//! `weir token`: keys, and tokens that the portal takes. What a token is stands in `portal/token.rs`.

use std::time::{Duration, SystemTime};

use crate::cli::{TokenArgs, TokenCommand, TokenScope};
use crate::portal::Scope;
use crate::portal::token::{Claims, SigningKey, public_path};

/// Runs one of them.
pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    match &args.command {
        TokenCommand::Key { file } => {
            SigningKey::make(file)?;
            println!("{}", public_path(file).display());
        }
        TokenCommand::Issue { key, scope, account, subject, valid_s } => {
            let scope = match scope {
                None | Some(TokenScope::UsageRead) => Scope::UsageRead,
                Some(TokenScope::Query) => Scope::Query,
                Some(TokenScope::Admin) => Scope::Admin,
            };
            let user = || std::env::var("USER").unwrap_or_else(|_| "operator".to_owned());
            let subject = subject.clone().or_else(|| account.clone()).unwrap_or_else(user);
            let valid = Duration::from_secs(*valid_s);
            let claims = Claims::new(&subject, scope, account.as_deref(), SystemTime::now(), valid);
            println!("{}", SigningKey::read(key)?.sign(&claims)?);
        }
    }
    Ok(())
}
