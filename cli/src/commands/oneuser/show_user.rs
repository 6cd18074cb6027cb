//! The page of a user: his attributes, tokens and quotas. Neither passwords nor tokens are on it, nor what is kept of them.

use crate::commands::quotas;
use crate::show::{Page, join, yes_no};
use crate::units;
use crate::xml::Element;

pub(super) fn fill(page: &mut Page, user: &Element) {
    let text = |name| user.text_at(name);
    page.header(&format!("USER {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("GROUP", text("GNAME"))
        .line("GROUPS", join(&user.ids_at("GROUPS")))
        .line("AUTH_DRIVER", text("AUTH_DRIVER"))
        .line("ENABLED", yes_no(text("ENABLED")));
    let mut tokens: Vec<_> = user.all("LOGIN_TOKEN").collect();
    // Those that end first stand first; −1 never ends.
    tokens.sort_by_key(|token| token.int_at("EXPIRATION_TIME").filter(|end| *end != -1).unwrap_or(i64::MAX));
    let tokens: Vec<_> = tokens.into_iter().map(token).collect();
    if !tokens.is_empty() {
        page.header("TOKENS")
            .table(&[("ID", super::tokens::SHORT, false), ("EGID", 5, true), ("EXPIRATION", 25, true)], &tokens);
    }
    page.template("USER TEMPLATE", user.at("TEMPLATE"), &[]);
    quotas::blocks(page, user);
}

/// The row of a token: as much of its digest as tells it apart, the group that it acts for, its end.
fn token(token: &Element) -> Vec<String> {
    let group = match token.text_at("EGID") {
        "-1" | "" => "*".to_owned(),
        group => group.to_owned(),
    };
    let end = match token.int_at("EXPIRATION_TIME") {
        Some(-1) => "forever".to_owned(),
        Some(end) if end <= units::now() => "expired".to_owned(),
        end => units::time_with_zone(end.unwrap_or(0), None),
    };
    vec![token.text_at("TOKEN").chars().take(super::tokens::SHORT).collect(), group, end]
}
