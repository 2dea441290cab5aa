//! Names of prepared statements in a text: what `PREPARE`, `EXECUTE` and `DEALLOCATE` name at the head of its statements,
//! behind `EXPLAIN`, and in `CREATE TABLE … AS EXECUTE`.

use std::ops::Range;

use super::tokens::{Token, Tokens};

/// PostgreSQL cuts a name at so many bytes (`NAMEDATALEN` of `src/include/pg_config_manual.h`).
pub const LONGEST: usize = super::tokens::LONGEST;

/// What a statement does with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `PREPARE name`.
    Prepare,
    /// `EXECUTE name`.
    Execute,
    /// `DEALLOCATE name`.
    Deallocate,
    /// `DEALLOCATE ALL`: takes all names, and has none itself.
    DeallocateAll,
}

/// A name in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// What is done with it.
    pub verb: Verb,
    /// Where it stands, quotes included.
    pub at: Range<usize>,
    /// As PostgreSQL folds it.
    pub name: Vec<u8>,
    /// Where its statement stands: the whole text, if it is the only one.
    pub statement: Range<usize>,
}

/// All of them, in order. `None`: one is spelled in a way that cannot be read (`U&"…"`).
pub fn mentions(text: &[u8]) -> Option<Vec<Mention>> {
    let mut tokens = Tokens::new(text);
    let mut mentions: Vec<Mention> = Vec::new();
    let (mut start, mut statements) = (0, 0);
    loop {
        let mut statement = Statement { tokens: tokens.clone() };
        let found = statement.mention()?;
        let mut is_empty = true;
        let end = loop {
            match tokens.next() {
                None => break text.len(),
                Some(Token::Punct(b';')) => break tokens.offset() - 1,
                Some(_) => is_empty = false,
            }
        };
        statements += usize::from(!is_empty);
        mentions.extend(found.map(|(verb, at, name)| Mention { verb, at, name, statement: start..end }));
        if end == text.len() {
            break;
        }
        start = end + 1;
    }
    if let ([only], 1) = (&mut mentions[..], statements) {
        only.statement = 0..text.len();
    }
    Some(mentions)
}

/// What a statement mentions.
type Found = (Verb, Range<usize>, Vec<u8>);

/// The start of one statement.
struct Statement<'a> {
    tokens: Tokens<'a>,
}

impl<'a> Statement<'a> {
    /// The next token, within this statement.
    fn next(&mut self) -> Option<Token<'a>> {
        self.tokens.next().filter(|token| *token != Token::Punct(b';'))
    }

    fn peek(&self) -> Option<Token<'a>> {
        Statement { tokens: self.tokens.clone() }.next()
    }

    /// The outer `None`: it has a name that cannot be read.
    fn mention(&mut self) -> Option<Option<Found>> {
        let Some(mut head) = self.next() else { return Some(None) };
        if is(head, "explain") {
            match self.explained() {
                Some(token) => head = token,
                None => return Some(None),
            }
        }
        match () {
            () if is(head, "execute") => self.named(Verb::Execute),
            () if is(head, "deallocate") => self.deallocated(),
            () if is(head, "create") && self.is_as_execute() => self.named(Verb::Execute),
            () if is(head, "prepare") => match self.peek() {
                // PREPARE TRANSACTION is followed by a string; a statement may be called so, too.
                Some(token) if is(token, "transaction") => {
                    let mut ahead = Statement { tokens: self.tokens.clone() };
                    ahead.next();
                    let named = ahead.next().is_some_and(|next| is(next, "as") || next == Token::Punct(b'('));
                    if named { self.named(Verb::Prepare) } else { Some(None) }
                }
                _ => self.named(Verb::Prepare),
            },
            () => Some(None),
        }
    }

    /// The first token of what is explained.
    fn explained(&mut self) -> Option<Token<'a>> {
        loop {
            match self.next()? {
                Token::Punct(b'(') => {
                    let mut depth = 1;
                    while depth > 0 {
                        match self.next()? {
                            Token::Punct(b'(') => depth += 1,
                            Token::Punct(b')') => depth -= 1,
                            _ => {}
                        }
                    }
                }
                token if ["analyze", "analyse", "verbose"].iter().any(|option| is(token, option)) => {}
                token => return Some(token),
            }
        }
    }

    fn deallocated(&mut self) -> Option<Option<Found>> {
        if self.peek().is_some_and(|token| is(token, "prepare")) {
            let mut ahead = Statement { tokens: self.tokens.clone() };
            ahead.next();
            // DEALLOCATE PREPARE alone deallocates one of that name.
            if ahead.peek().is_some() {
                *self = ahead;
            }
        }
        if self.peek().is_some_and(|token| is(token, "all")) {
            let at = self.tokens.offset();
            return Some(Some((Verb::DeallocateAll, at..at, Vec::new())));
        }
        self.named(Verb::Deallocate)
    }

    /// Moves behind `AS EXECUTE`, if that is what a CREATE TABLE is made from: behind the first AS outside parentheses.
    fn is_as_execute(&mut self) -> bool {
        let mut depth = 0;
        while let Some(token) = self.next() {
            match token {
                Token::Punct(b'(') => depth += 1,
                Token::Punct(b')') => depth -= 1,
                token if depth == 0 && is(token, "as") => {
                    return self.next().is_some_and(|token| is(token, "execute"));
                }
                _ => {}
            }
        }
        false
    }

    fn named(&mut self, verb: Verb) -> Option<Option<Found>> {
        let token = self.next();
        let end = self.tokens.offset();
        Some(match token {
            Some(Token::Unicode) => return None,
            // `None`: not a statement that PostgreSQL understands.
            token => token.and_then(|token| Some((verb, end - token.identifier_length()..end, token.identifier()?))),
        })
    }
}

/// Whether it is this keyword: a quoted one is none.
fn is(token: Token<'_>, keyword: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb name [where it stands]` of each.
    fn found(sql: &str) -> Option<Vec<String>> {
        let text = |range: &Range<usize>| sql[range.clone()].to_owned();
        let one = |m: &Mention| {
            format!("{:?} {} [{}] {}", m.verb, String::from_utf8_lossy(&m.name), text(&m.at), text(&m.statement))
        };
        mentions(sql.as_bytes()).map(|found| found.iter().map(one).collect())
    }

    #[test]
    fn names_are_found_where_postgresql_looks_for_them() {
        for (sql, expected) in [
            ("select 1", vec![]),
            ("prepare Foo as select 1;", vec!["Prepare foo [Foo] prepare Foo as select 1;"]),
            (
                "/* a */ PREPARE\"a\"\"B\"(int) AS select 1",
                vec!["Prepare a\"B [\"a\"\"B\"] /* a */ PREPARE\"a\"\"B\"(int) AS select 1"],
            ),
            ("prepare transaction 'x'", vec![]),
            (
                "prepare transaction as select 1",
                vec!["Prepare transaction [transaction] prepare transaction as select 1"],
            ),
            ("execute p(1, 'execute q')", vec!["Execute p [p] execute p(1, 'execute q')"]),
            ("select 1; execute p; -- x", vec!["Execute p [p]  execute p"]),
            (
                "deallocate p; deallocate prepare q",
                vec!["Deallocate p [p] deallocate p", "Deallocate q [q]  deallocate prepare q"],
            ),
            ("deallocate prepare", vec!["Deallocate prepare [prepare] deallocate prepare"]),
            ("deallocate all", vec!["DeallocateAll  [] deallocate all"]),
            ("deallocate prepare all;", vec!["DeallocateAll  [] deallocate prepare all;"]),
            ("deallocate \"all\"", vec!["Deallocate all [\"all\"] deallocate \"all\""]),
            ("explain analyze verbose execute p", vec!["Execute p [p] explain analyze verbose execute p"]),
            ("explain (analyze, costs off) execute p", vec!["Execute p [p] explain (analyze, costs off) execute p"]),
            (
                "create temp table t (a, b) as execute p(1) with no data",
                vec!["Execute p [p] create temp table t (a, b) as execute p(1) with no data"],
            ),
            ("explain create table t as execute p", vec!["Execute p [p] explain create table t as execute p"]),
            ("create table t as select 1 as execute from p", vec![]),
            ("create table execute (a int)", vec![]),
            ("create trigger t before insert on p execute function f()", vec![]),
            ("select 'x; execute p'; select $$; execute p$$", vec![]),
            ("execute", vec![]),
            ("prepare 'p' as select 1", vec![]),
        ] {
            assert_eq!(found(sql), Some(expected.into_iter().map(str::to_owned).collect()), "{sql}");
        }
        assert_eq!(found("execute U&\"p\""), None);
    }

    #[test]
    fn long_names_are_cut_as_by_postgresql() {
        let name = |sql: String| mentions(sql.as_bytes()).unwrap_or_default().remove(0).name;
        assert_eq!(name(format!("execute {}", "a".repeat(70))), "a".repeat(63).into_bytes());
        assert_eq!(name(format!("execute {}ää", "a".repeat(62))), "a".repeat(62).into_bytes());
        assert_eq!(name(format!("execute \"{}\"", "ä".repeat(40))), "ä".repeat(31).into_bytes());
    }
}
