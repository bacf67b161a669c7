//! The notation of message scripts: text into steps, steps into bytes, steps back into text.
//!
//! `tests/differential/README.md` describes it. A script is a list of steps; a step is what one client sends at
//! once, and how long it then reads.

use std::fmt;

use crate::support::wire::{bind_as, copy_data, copy_done, copy_fail, flush, msg_of, parse_as, sync};

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    A = 0,
    B = 1,
}

/// One message: as it is written, its tag, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) tag: u8,
    pub(crate) bytes: Vec<u8>,
}

/// How long a client reads after it has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until all that was asked for has come: what stands before the last Sync, Query, FunctionCall or Flush.
    Answered,
    /// Until a message with each of these tags has come, in this order.
    Tags(Vec<u8>),
    /// Not at all.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) who: Who,
    pub(crate) messages: Vec<Message>,
    pub(crate) wait: Wait,
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) options: Vec<String>,
    pub(crate) steps: Vec<Step>,
}

impl Script {
    /// The value of an option `name=value`.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// The client leaves what it began when the other one's turn comes; a random script is full of that.
    pub(crate) fn settles(&self) -> bool {
        self.options.iter().any(|option| option == "settle")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:", self.who)?;
        for message in &self.messages {
            write!(f, " {}", message.text)?;
        }
        match &self.wait {
            Wait::Answered => Ok(()),
            Wait::Tags(tags) => write!(f, " >{}", String::from_utf8_lossy(tags)),
            Wait::Nothing => write!(f, " .."),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} {}", self.name, self.options.join(" "))?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// What `$name` can stand for: its variants, each with a name and a text.
type Let = (String, Vec<(String, String)>);

/// All scripts of a file, with its families expanded.
pub(crate) fn scripts(text: &str) -> Result<Vec<Script>, String> {
    let mut found = vec![];
    let mut lets: Vec<Let> = vec![];
    let mut lines =
        text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut next = lines.next();
    while let Some((number, line)) = next {
        let at = |error: String| format!("line {}: {error}", number + 1);
        if let Some(rest) = line.strip_prefix("let ") {
            let new = binding(rest).map_err(at)?;
            lets.retain(|(name, _)| *name != new.0);
            lets.push(new);
            next = lines.next();
            continue;
        }
        let head = line.strip_prefix("== ").ok_or_else(|| at(format!("expected `== name`, got {line}")))?;
        let mut body = vec![];
        next = lines.next();
        while let Some((_, line)) = next.filter(|(_, line)| !line.starts_with("== ") && !line.starts_with("let ")) {
            body.push(line);
            next = lines.next();
        }
        expand(head, &body, &lets, &mut found).map_err(at)?;
    }
    Ok(found)
}

/// `name = one: text | two: text`.
fn binding(text: &str) -> Result<Let, String> {
    let (name, variants) = text.split_once(" = ").ok_or("expected `let name = variant: text | ...`")?;
    let variants = variants.split(" | ").map(|variant| {
        let (name, text) = variant.split_once(':').ok_or_else(|| format!("expected `name: text`, got {variant}"))?;
        Ok((name.trim().to_owned(), text.trim().to_owned()))
    });
    Ok((name.trim().to_owned(), variants.collect::<Result<_, String>>()?))
}

/// One script for each combination of the variables in its head.
fn expand(head: &str, body: &[&str], lets: &[Let], found: &mut Vec<Script>) -> Result<(), String> {
    // The longest name first: `$ab` is not `$a` and a "b".
    let used = lets.iter().filter(|(name, _)| head.contains(&format!("${name}"))).max_by_key(|(name, _)| name.len());
    if let Some((name, variants)) = used {
        let variable = format!("${name}");
        for (variant, text) in variants {
            let head = head.replacen(&variable, variant, 1);
            let body: Vec<String> = body.iter().map(|line| line.replace(&variable, text)).collect();
            let body: Vec<&str> = body.iter().map(String::as_str).collect();
            expand(&head, &body, lets, found)?;
        }
        return Ok(());
    }
    let mut words = head.split_whitespace();
    let name = words.next().ok_or("a script needs a name")?.to_owned();
    let steps = body.iter().map(|line| step(line).map_err(|error| format!("{name}: {line}: {error}")));
    found.push(Script { steps: steps.collect::<Result<_, _>>()?, options: words.map(str::to_owned).collect(), name });
    Ok(())
}

/// One step from its line.
pub(crate) fn step(line: &str) -> Result<Step, String> {
    let (who, rest) = match line.split_at_checked(2) {
        Some(("A:", rest)) => (Who::A, rest),
        Some(("B:", rest)) => (Who::B, rest),
        _ => return Err("a step begins with A: or B:".to_owned()),
    };
    let tokens = tokens(rest)?;
    let mut left = tokens.as_slice();
    let mut step = Step { who, messages: vec![], wait: Wait::Answered };
    while let [first, rest @ ..] = left {
        left = rest;
        if first.text == ".." {
            step.wait = Wait::Nothing;
        } else if let Some(tags) = first.text.strip_prefix('>') {
            step.wait = Wait::Tags(tags.as_bytes().to_vec());
        } else {
            // A message's words go up to the next that begins a message.
            let end = rest.iter().position(Token::begins).unwrap_or(rest.len());
            let (args, after) = rest.split_at(end);
            left = after;
            step.messages.push(message(first, args)?);
        }
    }
    Ok(step)
}

#[derive(Clone, Debug)]
enum Kind {
    Word,
    /// `"..."`, with its escapes resolved.
    Quoted(Vec<u8>),
    /// `[...]` or `{...}`.
    List(Vec<Token>),
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    /// As it was written.
    text: String,
}

const WORDS: [&str; 18] =
    ["Q", "P", "B", "DS", "DP", "CS", "CP", "E", "S", "H", "F", "d", "c", "f", "X", "RAW", "TAG", ".."];

impl Token {
    fn begins(&self) -> bool {
        matches!(self.kind, Kind::Word) && (WORDS.contains(&self.text.as_str()) || self.text.starts_with('>'))
    }

    fn quoted(&self) -> Option<&[u8]> {
        if let Kind::Quoted(bytes) = &self.kind { Some(bytes) } else { None }
    }

    fn list(&self) -> Option<&[Self]> {
        if let Kind::List(tokens) = &self.kind { Some(tokens) } else { None }
    }

    fn is_word(&self) -> bool {
        matches!(self.kind, Kind::Word)
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (kind, len) = match first {
            '"' => {
                let (bytes, len) = quoted(rest)?;
                (Kind::Quoted(bytes), len)
            }
            '[' | '{' => {
                let end = list_end(rest).ok_or("a list that does not end")?;
                (Kind::List(tokens(&rest[1..end])?), end + 1)
            }
            _ => (Kind::Word, rest.find(|c: char| c.is_whitespace() || "[{\"".contains(c)).unwrap_or(rest.len())),
        };
        found.push(Token { kind, text: rest[..len].to_owned() });
        rest = rest[len..].trim_start();
    }
    Ok(found)
}

/// Where the list that begins here ends; quotes hide brackets.
fn list_end(text: &str) -> Option<usize> {
    let mut at = 1;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' => at += quoted(&text[at..]).ok()?.1,
            ']' | '}' => return Some(at),
            _ => at += c.len_utf8(),
        }
    }
    None
}

/// The bytes of a quoted text, and its length as written. `\n`, `\t`, `\\`, `\"`, `\xHH`, and `\{1000:text}` repeats.
fn quoted(text: &str) -> Result<(Vec<u8>, usize), String> {
    let mut bytes = vec![];
    let mut at = 1;
    let broken = || format!("broken text {text}");
    loop {
        let c = text[at..].chars().next().ok_or_else(broken)?;
        at += c.len_utf8();
        match c {
            '"' => return Ok((bytes, at)),
            '\\' => {
                let c = text[at..].chars().next().ok_or_else(broken)?;
                at += c.len_utf8();
                match c {
                    'n' => bytes.push(b'\n'),
                    't' => bytes.push(b'\t'),
                    'x' => {
                        let hex = text.get(at..at + 2).ok_or_else(broken)?;
                        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| broken())?);
                        at += 2;
                    }
                    '{' => {
                        let end = at + text[at..].find('}').ok_or_else(broken)?;
                        let (count, part) = text[at..end].split_once(':').ok_or_else(broken)?;
                        bytes.extend(part.repeat(count.parse().map_err(|_| broken())?).into_bytes());
                        at = end + 1;
                    }
                    other => bytes.extend(other.to_string().into_bytes()),
                }
            }
            other => bytes.extend(other.to_string().into_bytes()),
        }
    }
}

/// A type by its name or number.
fn oid(name: &str) -> Result<u32, String> {
    Ok(match name {
        "bool" => 16,
        "bytea" => 17,
        "int8" => 20,
        "int2" => 21,
        "int4" => 23,
        "text" => 25,
        "json" => 114,
        "float8" => 701,
        "unknown" => 705,
        "int4s" => 1007,
        "date" => 1082,
        "timestamptz" => 1184,
        "numeric" => 1700,
        other => other.parse().map_err(|_| format!("no type {other}"))?,
    })
}

/// A value of Bind: `null`, a word, a quoted text, or `x'0a0b'`, which is sent as binary.
fn value(token: &Token) -> Result<(bool, Option<Vec<u8>>), String> {
    if let Some(bytes) = token.quoted() {
        return Ok((false, Some(bytes.to_vec())));
    }
    if token.text == "null" {
        return Ok((false, None));
    }
    let Some(hex) = token.text.strip_prefix("x'").and_then(|rest| rest.strip_suffix('\'')) else {
        return Ok((false, Some(token.text.clone().into_bytes())));
    };
    let pairs = (0..hex.len()).step_by(2);
    let bytes = pairs.map(|at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    bytes.collect::<Option<Vec<u8>>>().map(|bytes| (true, Some(bytes))).ok_or_else(|| format!("no bytes {hex}"))
}

fn message(keyword: &Token, args: &[Token]) -> Result<Message, String> {
    let mut text = keyword.text.clone();
    for arg in args {
        text.push(' ');
        text.push_str(&arg.text);
    }
    let wrong = || format!("wrong words after {}: {text}", keyword.text);
    // A name is a bare word or absent; a quoted one may hold anything.
    let name = |token: Option<&Token>| {
        token.map_or_else(Vec::new, |token| {
            token.quoted().map_or_else(|| token.text.clone().into_bytes(), <[u8]>::to_vec)
        })
    };
    let only = |max: usize| if args.len() > max { Err(wrong()) } else { Ok(()) };
    let bytes = match keyword.text.as_str() {
        "Q" => query_bytes(args.first().and_then(Token::quoted).ok_or_else(wrong)?),
        "P" => parse_message(args).ok_or_else(wrong)??,
        "B" => bind_message(args)?,
        "DS" | "DP" | "CS" | "CP" => {
            only(1)?;
            let body = [&keyword.text.as_bytes()[1..], &name(args.first()), b"\0"].concat();
            msg_of(keyword.text.as_bytes()[0], &body)
        }
        "E" => {
            only(2)?;
            let (portal, rows) = match args {
                [] => (vec![], 0),
                [one] if one.is_word() && one.text.parse::<u32>().is_ok() => (vec![], one.text.parse().unwrap()),
                [one] => (name(Some(one)), 0),
                [one, rows, ..] => (name(Some(one)), rows.text.parse().map_err(|_| wrong())?),
            };
            msg_of(b'E', &[&portal, &b"\0"[..], &u32::to_be_bytes(rows)].concat())
        }
        "S" => sync(),
        "H" => flush(),
        "F" => function_call(args)?,
        "d" => copy_data(args.first().and_then(Token::quoted).ok_or_else(wrong)?),
        "c" => copy_done(),
        "f" => copy_fail(&String::from_utf8_lossy(args.first().and_then(Token::quoted).ok_or_else(wrong)?)),
        "X" => msg_of(b'X', b""),
        // Bytes as they are; then a message with any tag and body.
        "RAW" => value(args.first().ok_or_else(wrong)?)?.1.ok_or_else(wrong)?,
        "TAG" => {
            let tag = args.first().filter(|tag| tag.text.len() == 1).ok_or_else(wrong)?.text.as_bytes()[0];
            msg_of(tag, &args.get(1).map(value).transpose()?.and_then(|(_, bytes)| bytes).unwrap_or_default())
        }
        other => return Err(format!("no message {other}")),
    };
    let tag = if keyword.text == "RAW" { 0 } else { bytes[0] };
    Ok(Message { text, tag, bytes })
}

fn query_bytes(sql: &[u8]) -> Vec<u8> {
    msg_of(b'Q', &[sql, b"\0"].concat())
}

/// `P [name] "sql" [{types}]`.
fn parse_message(args: &[Token]) -> Option<Result<Vec<u8>, String>> {
    let (types, args) = match args {
        [args @ .., last] if last.list().is_some() => (last.list()?, args),
        _ => (&[][..], args),
    };
    let (name, sql) = match args {
        [sql] => (Vec::new(), sql.quoted()?),
        [name, sql] => (name.quoted().map_or_else(|| name.text.clone().into_bytes(), <[u8]>::to_vec), sql.quoted()?),
        _ => return None,
    };
    let types: Result<Vec<u32>, String> = types.iter().map(|token| oid(&token.text)).collect();
    Some(types.map(|types| parse_as(&name, sql, &types)))
}

/// `B [portal/][statement] [[values]] [:formats]`, where formats is `b`, `t` or one letter for each column.
fn bind_message(args: &[Token]) -> Result<Vec<u8>, String> {
    let (mut portal, mut statement, mut values, mut results) = (Vec::new(), Vec::new(), vec![], vec![]);
    for arg in args {
        if let Some(list) = arg.list() {
            values = list.iter().map(value).collect::<Result<_, _>>()?;
        } else if let Some(formats) = arg.text.strip_prefix(':') {
            results = formats.bytes().map(|letter| u16::from(letter == b'b')).collect();
        } else if let Some(bytes) = arg.quoted() {
            statement = bytes.to_vec();
        } else if let Some((one, other)) = arg.text.split_once('/') {
            (portal, statement) = (one.as_bytes().to_vec(), other.as_bytes().to_vec());
        } else {
            statement = arg.text.clone().into_bytes();
        }
    }
    Ok(bind_as(&portal, &statement, &values, &results))
}

/// `F oid [values]`: the result comes as text.
fn function_call(args: &[Token]) -> Result<Vec<u8>, String> {
    let function: u32 = args.first().and_then(|token| token.text.parse().ok()).ok_or("F needs a function's oid")?;
    let values = args.get(1).and_then(Token::list).unwrap_or_default();
    let values = values.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    // The function's oid stands where a Bind has its names; then the same layout, but for the result's format.
    let bound = bind_as(b"", b"", &values, &[]);
    let arguments = &bound[7..bound.len() - 2];
    Ok(msg_of(b'F', &[&function.to_be_bytes(), arguments, &0_u16.to_be_bytes()].concat()))
}
