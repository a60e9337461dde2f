//! From text to items: a port of Go's `text/template/parse/lex.go`, whose items and error texts these are.

/// What kind of item it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Error,
    Bool,
    Char,
    CharConstant,
    Complex,
    Assign,
    Declare,
    Eof,
    Field,
    Identifier,
    LeftDelim,
    LeftParen,
    Number,
    Pipe,
    RawString,
    RightDelim,
    RightParen,
    Space,
    String,
    Text,
    Variable,
    Block,
    Break,
    Continue,
    Dot,
    Define,
    Else,
    End,
    If,
    Nil,
    Range,
    Template,
    With,
}

impl Kind {
    fn keyword(word: &str) -> Option<Self> {
        Some(match word {
            "." => Self::Dot,
            "block" => Self::Block,
            "break" => Self::Break,
            "continue" => Self::Continue,
            "define" => Self::Define,
            "else" => Self::Else,
            "end" => Self::End,
            "if" => Self::If,
            "range" => Self::Range,
            "nil" => Self::Nil,
            "template" => Self::Template,
            "with" => Self::With,
            _ => return None,
        })
    }

    fn is_keyword(self) -> bool {
        matches!(
            self,
            Self::Block
                | Self::Break
                | Self::Continue
                | Self::Dot
                | Self::Define
                | Self::Else
                | Self::End
                | Self::If
                | Self::Nil
                | Self::Range
                | Self::Template
                | Self::With
        )
    }
}

/// One item of the template.
#[derive(Debug, Clone)]
pub(super) struct Item<'t> {
    pub(super) kind: Kind,
    pub(super) pos: usize,
    pub(super) text: std::borrow::Cow<'t, str>,
    pub(super) line: usize,
}

impl Item<'_> {
    /// Before the first one.
    pub(super) fn none() -> Self {
        Item {
            kind: Kind::Error,
            pos: 0,
            text: "".into(),
            line: 0,
        }
    }
}

impl std::fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::Eof => f.write_str("EOF"),
            Kind::Error => f.write_str(&self.text),
            kind if kind.is_keyword() => write!(f, "<{}>", self.text),
            _ if self.text.len() > 10 => {
                let start: String = self.text.chars().take(10).collect();
                write!(f, "{}...", super::literal::quote(&start, '"', false))
            }
            _ => f.write_str(&super::literal::quote(&self.text, '"', false)),
        }
    }
}

const LEFT: &str = "{{";
const RIGHT: &str = "}}";
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];
/// The marker and the space beside it.
const TRIM_MARKER: usize = 2;

/// The scanner.
pub(super) struct Lexer<'t> {
    input: &'t str,
    pos: usize,
    start: usize,
    parens: usize,
    line: usize,
    start_line: usize,
    is_inside_action: bool,
    is_over: bool,
}

enum State {
    Text,
    LeftDelim,
    Comment,
    RightDelim,
    InsideAction,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(input: &'t str) -> Self {
        Self {
            input,
            pos: 0,
            start: 0,
            parens: 0,
            line: 1,
            start_line: 1,
            is_inside_action: false,
            is_over: false,
        }
    }

    pub(super) fn next_item(&mut self) -> Item<'t> {
        if self.is_over {
            return self.item(Kind::Eof);
        }
        let mut state = match self.is_inside_action {
            true => State::InsideAction,
            false => State::Text,
        };
        loop {
            let next = match state {
                State::Text => self.text(),
                State::LeftDelim => self.left_delim(),
                State::Comment => self.comment(),
                State::RightDelim => Ok(self.right_delim()),
                State::InsideAction => self.inside_action(),
            };
            match next {
                Ok(item) => return item,
                Err(next) => state = next,
            }
        }
    }

    fn rest(&self) -> &'t str {
        self.input.get(self.pos..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.pos += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn item(&mut self, kind: Kind) -> Item<'t> {
        let item = Item {
            kind,
            pos: self.start,
            text: self.input.get(self.start..self.pos).unwrap_or_default().into(),
            line: self.start_line,
        };
        self.start = self.pos;
        self.start_line = self.line;
        item
    }

    /// Skips what stands before this point, which was not read with [`Self::next`].
    fn ignore(&mut self) {
        self.line += newlines(self.input.get(self.start..self.pos).unwrap_or_default());
        self.start = self.pos;
        self.start_line = self.line;
    }

    fn error(&mut self, why: impl Into<String>) -> Item<'t> {
        self.is_over = true;
        Item {
            kind: Kind::Error,
            pos: self.start,
            text: why.into().into(),
            line: self.start_line,
        }
    }

    fn text(&mut self) -> Result<Item<'t>, State> {
        if let Some(at) = self.rest().find(LEFT) {
            if at > 0 {
                self.pos += at;
                let text = self.input.get(self.start..self.pos).unwrap_or_default();
                let after = self.input.get(self.pos + LEFT.len()..).unwrap_or_default();
                let trimmed = match has_left_trim_marker(after) {
                    true => text.len() - text.trim_end_matches(SPACE).len(),
                    false => 0,
                };
                self.pos -= trimmed;
                self.line += newlines(self.input.get(self.start..self.pos).unwrap_or_default());
                let item = self.item(Kind::Text);
                self.pos += trimmed;
                self.ignore();
                if !item.text.is_empty() {
                    return Ok(item);
                }
            }
            return Err(State::LeftDelim);
        }
        self.pos = self.input.len();
        if self.pos > self.start {
            self.line += newlines(self.input.get(self.start..self.pos).unwrap_or_default());
            return Ok(self.item(Kind::Text));
        }
        Ok(self.item(Kind::Eof))
    }

    /// At a right delimiter, and whether it trims.
    fn right_delim_ahead(&self) -> Option<bool> {
        let rest = self.rest();
        if has_right_trim_marker(rest) && rest.get(TRIM_MARKER..).is_some_and(|rest| rest.starts_with(RIGHT)) {
            return Some(true);
        }
        rest.starts_with(RIGHT).then_some(false)
    }

    fn left_delim(&mut self) -> Result<Item<'t>, State> {
        self.pos += LEFT.len();
        let marker = match has_left_trim_marker(self.rest()) {
            true => TRIM_MARKER,
            false => 0,
        };
        if self.rest().get(marker..).is_some_and(|rest| rest.starts_with("/*")) {
            self.pos += marker;
            self.ignore();
            return Err(State::Comment);
        }
        let item = self.item(Kind::LeftDelim);
        self.is_inside_action = true;
        self.pos += marker;
        self.ignore();
        self.parens = 0;
        Ok(item)
    }

    fn comment(&mut self) -> Result<Item<'t>, State> {
        self.pos += 2;
        let Some(end) = self.rest().find("*/") else {
            return Ok(self.error("unclosed comment"));
        };
        self.pos += end + 2;
        let Some(trims) = self.right_delim_ahead() else {
            return Ok(self.error("comment ends before closing delimiter"));
        };
        if trims {
            self.pos += TRIM_MARKER;
        }
        self.pos += RIGHT.len();
        if trims {
            self.pos += left_trim_length(self.rest());
        }
        self.ignore();
        Err(State::Text)
    }

    fn right_delim(&mut self) -> Item<'t> {
        let trims = self.right_delim_ahead() == Some(true);
        if trims {
            self.pos += TRIM_MARKER;
            self.ignore();
        }
        self.pos += RIGHT.len();
        let item = self.item(Kind::RightDelim);
        if trims {
            self.pos += left_trim_length(self.rest());
            self.ignore();
        }
        self.is_inside_action = false;
        item
    }

    fn inside_action(&mut self) -> Result<Item<'t>, State> {
        if self.right_delim_ahead().is_some() {
            return match self.parens {
                0 => Err(State::RightDelim),
                _ => Ok(self.error("unclosed left paren")),
            };
        }
        let before = (self.pos, self.line);
        let Some(c) = self.next() else {
            return Ok(self.error("unclosed action"));
        };
        let back = |lexer: &mut Self| (lexer.pos, lexer.line) = before;
        Ok(match c {
            ' ' | '\t' | '\r' | '\n' => {
                back(self);
                return self.space();
            }
            '=' => self.item(Kind::Assign),
            ':' if self.next() == Some('=') => self.item(Kind::Declare),
            ':' => self.error("expected :="),
            '|' => self.item(Kind::Pipe),
            '"' => self.quoted('"', Kind::String, "unterminated quoted string"),
            '`' => self.raw_quoted(),
            '$' => match self.is_at_terminator() {
                true => self.item(Kind::Variable),
                false => self.field_or_variable(Kind::Variable),
            },
            '\'' => self.quoted('\'', Kind::CharConstant, "unterminated character constant"),
            '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) && !self.rest().is_empty() => {
                self.field_or_variable(Kind::Field)
            }
            '.' | '+' | '-' | '0'..='9' => {
                back(self);
                self.number()
            }
            c if is_alphanumeric(c) => {
                back(self);
                self.identifier()
            }
            '(' => {
                self.parens += 1;
                self.item(Kind::LeftParen)
            }
            ')' if self.parens == 0 => self.error("unexpected right paren"),
            ')' => {
                self.parens -= 1;
                self.item(Kind::RightParen)
            }
            ' '..='~' => self.item(Kind::Char),
            c => {
                let why = format!("unrecognized character in action: {}", named(Some(c)));
                self.error(why)
            }
        })
    }

    fn space(&mut self) -> Result<Item<'t>, State> {
        let mut spaces = 0;
        while self.peek().is_some_and(|c| SPACE.contains(&c)) {
            self.next();
            spaces += 1;
        }
        // A closing delimiter that trims begins with the last of the spaces.
        let from_last = self.input.get(self.pos.saturating_sub(1)..).unwrap_or_default();
        if has_right_trim_marker(from_last) && from_last.get(TRIM_MARKER..).is_some_and(|rest| rest.starts_with(RIGHT))
        {
            self.pos -= 1;
            self.line -= usize::from(self.rest().starts_with('\n'));
            if spaces == 1 {
                return Err(State::RightDelim);
            }
        }
        Ok(self.item(Kind::Space))
    }

    fn identifier(&mut self) -> Item<'t> {
        while self.peek().is_some_and(is_alphanumeric) {
            self.next();
        }
        if !self.is_at_terminator() {
            let why = format!("bad character {}", named(self.peek()));
            return self.error(why);
        }
        let kind = match self.input.get(self.start..self.pos).unwrap_or_default() {
            "true" | "false" => Kind::Bool,
            word => Kind::keyword(word).unwrap_or(Kind::Identifier),
        };
        self.item(kind)
    }

    /// The dot or dollar has been read.
    fn field_or_variable(&mut self, kind: Kind) -> Item<'t> {
        if self.is_at_terminator() {
            return self.item(if kind == Kind::Variable { kind } else { Kind::Dot });
        }
        while self.peek().is_some_and(is_alphanumeric) {
            self.next();
        }
        if !self.is_at_terminator() {
            let why = format!("bad character {}", named(self.peek()));
            return self.error(why);
        }
        self.item(kind)
    }

    fn is_at_terminator(&self) -> bool {
        match self.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(_) => self.rest().starts_with(RIGHT),
        }
    }

    /// A string or a character; the first quote has been read.
    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Item<'t> {
        loop {
            match self.next() {
                Some('\\') if self.peek().is_some_and(|c| c != '\n') => {
                    self.next();
                }
                None | Some('\n' | '\\') => return self.error(unterminated),
                Some(c) if c == quote => return self.item(kind),
                Some(_) => {}
            }
        }
    }

    fn raw_quoted(&mut self) -> Item<'t> {
        loop {
            match self.next() {
                None => return self.error("unterminated raw quoted string"),
                Some('`') => return self.item(Kind::RawString),
                Some(_) => {}
            }
        }
    }

    fn number(&mut self) -> Item<'t> {
        if !self.scan_number() {
            return self.bad_number();
        }
        if self.peek().is_some_and(|c| matches!(c, '+' | '-')) {
            // 1+2i: no spaces, and an i at the end.
            let is_complex = self.scan_number() && self.input.get(..self.pos).is_some_and(|text| text.ends_with('i'));
            return match is_complex {
                true => self.item(Kind::Complex),
                false => self.bad_number(),
            };
        }
        self.item(Kind::Number)
    }

    fn bad_number(&mut self) -> Item<'t> {
        let text = self.input.get(self.start..self.pos).unwrap_or_default();
        let why = format!("bad number syntax: {}", super::literal::quote(text, '"', false));
        self.error(why)
    }

    fn scan_number(&mut self) -> bool {
        self.accept("+-");
        let mut digits = "0123456789_";
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        self.accept_run(digits);
        if self.accept(".") {
            self.accept_run(digits);
        }
        let exponent = match digits.len() {
            11 => "eE",
            23 => "pP",
            _ => "",
        };
        if self.accept(exponent) {
            self.accept("+-");
            self.accept_run("0123456789_");
        }
        self.accept("i");
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            return false;
        }
        true
    }

    fn accept(&mut self, valid: &str) -> bool {
        let accepts = self.peek().is_some_and(|c| valid.contains(c));
        if accepts {
            self.next();
        }
        accepts
    }

    fn accept_run(&mut self, valid: &str) {
        while self.accept(valid) {}
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn left_trim_length(text: &str) -> usize {
    text.len() - text.trim_start_matches(SPACE).len()
}

fn has_left_trim_marker(text: &str) -> bool {
    matches!(text.as_bytes(), [b'-', b' ' | b'\t' | b'\r' | b'\n', ..])
}

fn has_right_trim_marker(text: &str) -> bool {
    matches!(text.as_bytes(), [b' ' | b'\t' | b'\r' | b'\n', b'-', ..])
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Go's `%#U`.
fn named(c: Option<char>) -> String {
    match c {
        None => "U+FFFFFFFFFFFFFFFF".into(),
        Some(c) if super::literal::is_print(c) => format!("U+{:04X} '{c}'", u32::from(c)),
        Some(c) => format!("U+{:04X}", u32::from(c)),
    }
}
