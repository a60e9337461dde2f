//! From items to nodes: a port of Go's `text/template/parse/parse.go`, with its look-ahead, so that its error texts name the same line.

use std::collections::{BTreeSet, HashMap};

use super::lex::{Item, Kind, Lexer};
use super::literal::{character, number, quote, unquote};
use super::node::{Branch, BranchKind, Command, Invocation, List, Node, Operand, Pipe, Term};
use super::{MAX_DEPTH, ParseError, funcs};

/// The named trees of a template, its own among them, and the names of fields in them.
pub(super) type Parsed = (HashMap<Box<str>, List>, BTreeSet<Box<str>>);

pub(super) fn parse(name: &str, text: &str) -> Result<Parsed> {
    let mut parser = Parser {
        name,
        lexer: Lexer::new(text),
        tree: Tree::new(),
        trees: HashMap::new(),
        mentions: BTreeSet::new(),
        depth: 0,
    };
    let root = parser.whole()?;
    parser.add(name, root)?;
    Ok((parser.trees, parser.mentions))
}

struct Parser<'t> {
    name: &'t str,
    lexer: Lexer<'t>,
    tree: Tree<'t>,
    trees: HashMap<Box<str>, List>,
    mentions: BTreeSet<Box<str>>,
    depth: usize,
}

/// What belongs to the tree that is being parsed: `{{define}}` and `{{block}}` begin another one.
struct Tree<'t> {
    /// Three items of look-ahead.
    tokens: [Item<'t>; 3],
    peeked: usize,
    variables: Vec<Box<str>>,
    action_line: usize,
    ranges: usize,
}

impl Tree<'_> {
    fn new() -> Self {
        Self {
            tokens: [Item::none(), Item::none(), Item::none()],
            peeked: 0,
            variables: vec!["$".into()],
            action_line: 0,
            ranges: 0,
        }
    }
}

/// What ends a list of nodes.
enum End {
    End,
    Else,
}

type Result<T> = std::result::Result<T, ParseError>;

impl<'t> Parser<'t> {
    fn next(&mut self) -> Item<'t> {
        match self.tree.peeked {
            0 => self.tree.tokens[0] = self.lexer.next_item(),
            _ => self.tree.peeked -= 1,
        }
        self.tree.tokens[self.tree.peeked.min(2)].clone()
    }

    fn backup(&mut self) {
        self.tree.peeked += 1;
    }

    fn peek(&mut self) -> Item<'t> {
        if self.tree.peeked == 0 {
            self.tree.peeked = 1;
            self.tree.tokens[0] = self.lexer.next_item();
        }
        self.tree.tokens[(self.tree.peeked - 1).min(2)].clone()
    }

    fn next_non_space(&mut self) -> Item<'t> {
        loop {
            let token = self.next();
            if token.kind != Kind::Space {
                return token;
            }
        }
    }

    fn peek_non_space(&mut self) -> Item<'t> {
        let token = self.next_non_space();
        self.backup();
        token
    }

    fn error(&self, why: impl std::fmt::Display) -> ParseError {
        ParseError(format!("{}:{}: {why}", self.name, self.tree.tokens[0].line))
    }

    fn unexpected(&self, token: &Item<'_>, context: &str) -> ParseError {
        if token.kind != Kind::Error {
            return self.error(format_args!("unexpected {token} in {context}"));
        }
        let mut extra = String::new();
        let line = self.tree.action_line;
        if line != 0 && line != token.line {
            extra = format!(" in action started at {}:{line}", self.name);
            if token.text.ends_with(" action") {
                extra = extra.split_off(" in action".len());
            }
        }
        self.error(format_args!("{token}{extra}"))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Item<'t>> {
        let token = self.next_non_space();
        match token.kind == kind {
            true => Ok(token),
            false => Err(self.unexpected(&token, context)),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format_args!("it is nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn add(&mut self, name: &str, list: List) -> Result<()> {
        match self.trees.get(name) {
            Some(old) if !old.is_blank() => match list.is_blank() {
                true => Ok(()),
                false => {
                    let name = quote(name, '"', false);
                    Err(self.error(format_args!("template: multiple definition of template {name}")))
                }
            },
            _ => {
                self.trees.insert(name.into(), list);
                Ok(())
            }
        }
    }

    fn whole(&mut self) -> Result<List> {
        let mut list = List::default();
        while self.peek().kind != Kind::Eof {
            if self.peek().kind == Kind::LeftDelim {
                let delim = self.next();
                if self.next_non_space().kind == Kind::Define {
                    self.definition()?;
                    continue;
                }
                // Back before the delimiter; the item behind it is there already.
                self.tree.tokens[1] = delim;
                self.tree.peeked = 2;
            }
            match self.text_or_action()? {
                Ok(node) => list.0.push(node),
                Err(End::End) => return Err(self.error("unexpected {{end}}")),
                Err(End::Else) => return Err(self.error("unexpected {{else}}")),
            }
        }
        Ok(list)
    }

    /// Parses in a tree of its own.
    fn subtree<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.tree, Tree::new());
        let parsed = self.deeper(parse)?;
        self.tree = outer;
        Ok(parsed)
    }

    fn definition(&mut self) -> Result<()> {
        const CONTEXT: &str = "define clause";
        self.subtree(|parser| {
            let token = parser.next_non_space();
            let name = parser.template_name(&token, CONTEXT)?;
            parser.expect(Kind::RightDelim, CONTEXT)?;
            match parser.item_list()? {
                (list, End::End) => parser.add(&name, list),
                _ => Err(parser.error(format_args!("unexpected {{{{else}}}} in {CONTEXT}"))),
            }
        })
    }

    /// Nodes to an `{{end}}` or `{{else}}`, which comes with them.
    fn item_list(&mut self) -> Result<(List, End)> {
        let mut list = List::default();
        while self.peek_non_space().kind != Kind::Eof {
            match self.text_or_action()? {
                Ok(node) => list.0.push(node),
                Err(end) => return Ok((list, end)),
            }
        }
        Err(self.error("unexpected EOF"))
    }

    fn text_or_action(&mut self) -> Result<std::result::Result<Node, End>> {
        let token = self.next_non_space();
        match token.kind {
            Kind::Text => Ok(Ok(Node::Text((*token.text).into()))),
            Kind::LeftDelim => {
                self.tree.action_line = token.line;
                let parsed = self.action()?;
                self.tree.action_line = 0;
                Ok(parsed)
            }
            _ => Err(self.unexpected(&token, "input")),
        }
    }

    fn action(&mut self) -> Result<std::result::Result<Node, End>> {
        let token = self.next_non_space();
        let node = match token.kind {
            Kind::Block => self.block()?,
            Kind::Break => self.loop_control("{{break}}", Node::Break)?,
            Kind::Continue => self.loop_control("{{continue}}", Node::Continue)?,
            Kind::Else => {
                // "{{else if" and "{{else with" leave their keyword for whoever asked.
                if !matches!(self.peek_non_space().kind, Kind::If | Kind::With) {
                    self.expect(Kind::RightDelim, "else")?;
                }
                return Ok(Err(End::Else));
            }
            Kind::End => {
                self.expect(Kind::RightDelim, "end")?;
                return Ok(Err(End::End));
            }
            Kind::If => self.branch(BranchKind::If)?,
            Kind::Range => self.branch(BranchKind::Range)?,
            Kind::With => self.branch(BranchKind::With)?,
            Kind::Template => self.invocation()?,
            _ => {
                self.backup();
                let pos = self.peek().pos;
                // Variables persist until "end".
                Node::Action(pos, self.pipeline("command", Kind::RightDelim)?)
            }
        };
        Ok(Ok(node))
    }

    fn loop_control(&mut self, written: &str, node: Node) -> Result<Node> {
        let token = self.next_non_space();
        if token.kind != Kind::RightDelim {
            return Err(self.unexpected(&token, written));
        }
        match self.tree.ranges {
            0 => Err(self.error(format_args!("{written} outside {{{{range}}}}"))),
            _ => Ok(node),
        }
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe> {
        let mut pipe = Pipe {
            pos: self.peek_non_space().pos,
            is_assign: false,
            variables: Vec::new(),
            commands: Vec::new(),
        };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.next_non_space();
            if token.kind == end {
                break;
            }
            match token.kind {
                Kind::Bool
                | Kind::CharConstant
                | Kind::Complex
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParen => {
                    self.backup();
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return Err(self.unexpected(&token, context)),
            }
        }
        if pipe.commands.is_empty() {
            return Err(self.error(format_args!("missing value for {context}")));
        }
        // Only the first command can begin with something that cannot be executed.
        for (stage, command) in pipe.commands.iter().enumerate().skip(1) {
            if command.operands.first().is_some_and(|first| first.term.is_literal()) {
                let stage = stage + 1;
                return Err(self.error(format_args!("non executable command in pipeline stage {stage}")));
            }
        }
        Ok(pipe)
    }

    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<()> {
        loop {
            let variable = self.peek_non_space();
            if variable.kind != Kind::Variable {
                return Ok(());
            }
            self.next();
            // "$x foo" needs a look at "foo" (it might be ":=") before $x is known to be an argument: three items of look-ahead at worst.
            let behind = self.peek();
            let next = self.peek_non_space();
            match (next.kind, &*next.text) {
                (Kind::Assign | Kind::Declare, _) => {
                    pipe.is_assign = next.kind == Kind::Assign;
                    self.next_non_space();
                    self.declare(pipe, &variable);
                    return Ok(());
                }
                (Kind::Char, ",") => {
                    self.next_non_space();
                    self.declare(pipe, &variable);
                    if context == "range" && pipe.variables.len() < 2 {
                        match self.peek_non_space().kind {
                            Kind::Variable | Kind::RightDelim | Kind::RightParen => continue,
                            _ => return Err(self.error("range can only initialize variables")),
                        }
                    }
                    return Err(self.error(format_args!("too many declarations in {context}")));
                }
                _ if behind.kind == Kind::Space => {
                    self.tree.tokens[1] = behind;
                    self.tree.tokens[2] = variable;
                    self.tree.peeked = 3;
                    return Ok(());
                }
                _ => {
                    self.tree.tokens[1] = variable;
                    self.tree.peeked = 2;
                    return Ok(());
                }
            }
        }
    }

    fn declare(&mut self, pipe: &mut Pipe, variable: &Item<'_>) {
        pipe.variables.push((*variable.text).into());
        self.tree.variables.push((*variable.text).into());
    }

    fn branch(&mut self, kind: BranchKind) -> Result<Node> {
        let mark = self.tree.variables.len();
        let parsed = self.deeper(|parser| parser.branch_within(kind))?;
        self.tree.variables.truncate(mark);
        Ok(Node::Branch(parsed))
    }

    fn branch_within(&mut self, kind: BranchKind) -> Result<Branch> {
        let (context, keyword) = match kind {
            BranchKind::If => ("if", Some(Kind::If)),
            BranchKind::With => ("with", Some(Kind::With)),
            BranchKind::Range => ("range", None),
        };
        let pipe = self.pipeline(context, Kind::RightDelim)?;
        let is_range = usize::from(kind == BranchKind::Range);
        self.tree.ranges += is_range;
        let (list, end) = self.item_list()?;
        self.tree.ranges -= is_range;
        let mut otherwise = None;
        if matches!(end, End::Else) {
            // {{if a}}_{{else if b}}_{{end}} is {{if a}}_{{else}}{{if b}}_{{end}}{{end}}.
            if keyword.is_some_and(|keyword| self.peek().kind == keyword) {
                self.next();
                otherwise = Some(List(vec![self.branch(kind)?]));
            } else {
                let (list, end) = self.item_list()?;
                if !matches!(end, End::End) {
                    return Err(self.error("expected end; found {{else}}"));
                }
                otherwise = Some(list);
            }
        }
        Ok(Branch {
            pos: pipe.pos,
            kind,
            pipe,
            list,
            otherwise,
        })
    }

    fn block(&mut self) -> Result<Node> {
        const CONTEXT: &str = "block clause";
        let token = self.next_non_space();
        let name = self.template_name(&token, CONTEXT)?;
        let pipe = self.pipeline(CONTEXT, Kind::RightDelim)?;
        let is_whole = self.subtree(|parser| match parser.item_list()? {
            (list, End::End) => parser.add(&name, list).map(|()| true),
            _ => Ok(false),
        })?;
        if !is_whole {
            return Err(self.error(format_args!("unexpected {{{{else}}}} in {CONTEXT}")));
        }
        Ok(Node::Template(Invocation {
            pos: token.pos,
            name,
            pipe: Some(pipe),
        }))
    }

    fn invocation(&mut self) -> Result<Node> {
        const CONTEXT: &str = "template clause";
        let token = self.next_non_space();
        let name = self.template_name(&token, CONTEXT)?;
        let mut pipe = None;
        if self.next_non_space().kind != Kind::RightDelim {
            self.backup();
            pipe = Some(self.pipeline(CONTEXT, Kind::RightDelim)?);
        }
        Ok(Node::Template(Invocation {
            pos: token.pos,
            name,
            pipe,
        }))
    }

    fn template_name(&mut self, token: &Item<'_>, context: &str) -> Result<Box<str>> {
        match token.kind {
            Kind::String | Kind::RawString => unquote(&token.text).map(Into::into).map_err(|why| self.error(why)),
            _ => Err(self.unexpected(token, context)),
        }
    }

    fn command(&mut self) -> Result<Command> {
        let pos = self.peek_non_space().pos;
        let mut operands = Vec::new();
        loop {
            self.peek_non_space();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            let token = self.next();
            match token.kind {
                Kind::Space => continue,
                Kind::RightDelim | Kind::RightParen => self.backup(),
                Kind::Pipe => {}
                _ => return Err(self.unexpected(&token, "operand")),
            }
            break;
        }
        match operands.is_empty() {
            true => Err(self.error("empty command")),
            false => Ok(Command { pos, operands }),
        }
    }

    /// A term and the fields behind it.
    fn operand(&mut self) -> Result<Option<Operand>> {
        let Some(mut operand) = self.term()? else {
            return Ok(None);
        };
        if self.peek().kind != Kind::Field {
            return Ok(Some(operand));
        }
        let pos = self.peek().pos;
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            let token = self.next();
            fields.push(self.mention(&token.text));
        }
        if operand.term.is_literal() {
            let term = quote(&operand.term.to_string(), '"', false);
            return Err(self.error(format_args!("unexpected . after term {term}")));
        }
        match &mut operand.term {
            Term::Field(names) | Term::Variable(names) => {
                names.append(&mut fields);
                operand.pos = pos;
                Ok(Some(operand))
            }
            _ => Ok(Some(Operand {
                pos,
                term: Term::Chain(Box::new(operand), fields),
            })),
        }
    }

    fn term(&mut self) -> Result<Option<Operand>> {
        let token = self.next_non_space();
        let text = &*token.text;
        let wrong = |parser: &Self, why: String| parser.error(why);
        let term = match token.kind {
            Kind::Identifier => match funcs::Function::named(text) {
                Some(_) => Term::Function(text.into()),
                None => {
                    let name = quote(text, '"', false);
                    return Err(self.error(format_args!("function {name} not defined")));
                }
            },
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Variable => match self.tree.variables.iter().any(|known| **known == *text) {
                true => Term::Variable(vec![text.into()]),
                false => {
                    let name = quote(text, '"', false);
                    return Err(self.error(format_args!("undefined variable {name}")));
                }
            },
            Kind::Field => Term::Field(vec![self.mention(text)]),
            Kind::Bool => Term::Bool(text == "true"),
            Kind::CharConstant => Term::Number(character(text).map_err(|why| wrong(self, why))?),
            Kind::Complex | Kind::Number => Term::Number(number(text).map_err(|why| wrong(self, why))?),
            Kind::LeftParen => {
                Term::Pipe(self.deeper(|parser| parser.pipeline("parenthesized pipeline", Kind::RightParen))?)
            }
            Kind::String | Kind::RawString => {
                Term::Text(text.into(), unquote(text).map_err(|why| wrong(self, why))?.into())
            }
            _ => {
                self.backup();
                return Ok(None);
            }
        };
        Ok(Some(Operand { pos: token.pos, term }))
    }

    /// The name of a field, without its dot.
    fn mention(&mut self, field: &str) -> Box<str> {
        let name = field.strip_prefix('.').unwrap_or(field);
        self.mentions.insert(name.into());
        name.into()
    }
}
