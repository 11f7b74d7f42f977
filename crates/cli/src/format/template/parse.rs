//! Pieces to a tree.

use serde_json::Value;

use super::TemplateError;
use super::functions::Function;
use super::lex::{Piece, Token};

/// Actions and parentheses within each other at most.
const MAX_DEPTH: usize = 100;

/// A node of the template.
#[derive(Debug)]
pub(super) enum Node {
    /// Printed as it is.
    Text(String),
    /// A pipeline whose value is printed.
    Print(Expr),
    /// `$x := …` and `$x = …`; a declaration is new in its block.
    Set { name: String, value: Expr, declare: bool },
    /// `if` and `with` (which also moves the dot).
    Branch { test: Expr, with: bool, then: Vec<Self>, otherwise: Vec<Self> },
    /// `range`.
    Range { over: Expr, variables: Vec<String>, body: Vec<Self>, otherwise: Vec<Self> },
}

/// An expression.
#[derive(Debug)]
pub(super) enum Expr {
    /// A literal.
    Literal(Value),
    /// The dot.
    Dot,
    /// `$x`; empty is `$`.
    Variable(String),
    /// Fields of a value, with docker's one method call: `.Label "key"`.
    Fields(Box<Self>, Vec<String>, Vec<Self>),
    /// A call; piped values come last.
    Call(Function, Vec<Self>),
}

/// Builds the tree.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces.into_iter() };
    let (nodes, end) = parser.block(0)?;
    match end {
        Close::Eof => Ok(nodes),
        Close::End => Err(TemplateError::new("unexpected {{end}}")),
        Close::Else(_) => Err(TemplateError::new("unexpected {{else}}")),
    }
}

/// What closed a block.
enum Close {
    Eof,
    End,
    /// The tokens after `else`.
    Else(Vec<Token>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
}

impl Parser {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Close), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::new("nested too deeply"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            match tokens.first() {
                Some(Token::Word(word)) if word == "end" => return Ok((nodes, Close::End)),
                Some(Token::Word(word)) if word == "else" => return Ok((nodes, Close::Else(tokens[1..].to_vec()))),
                Some(Token::Word(word)) if matches!(word.as_str(), "if" | "with" | "range") => {
                    let word = word.clone();
                    nodes.push(self.control(&word, &tokens[1..], depth)?);
                }
                _ => nodes.push(statement(&tokens)?),
            }
        }
        Ok((nodes, Close::Eof))
    }

    fn control(&mut self, word: &str, tokens: &[Token], depth: usize) -> Result<Node, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::new("nested too deeply"));
        }
        let (then, end) = self.block(depth + 1)?;
        let otherwise = match end {
            Close::Eof => return Err(TemplateError::new(format!("{{{{{word}}}}} without its {{{{end}}}}"))),
            Close::End => Vec::new(),
            Close::Else(tokens) => match tokens.first() {
                None => match self.block(depth + 1)? {
                    (nodes, Close::End) => nodes,
                    _ => return Err(TemplateError::new(format!("{{{{{word}}}}} without its {{{{end}}}}"))),
                },
                Some(Token::Word(next)) if next == word && word != "range" => {
                    vec![self.control(word, &tokens[1..], depth + 1)?]
                }
                Some(_) => return Err(TemplateError::new("{{else}} may only be followed by the same keyword")),
            },
        };
        if word != "range" {
            return Ok(Node::Branch { test: pipeline(tokens)?, with: word == "with", then, otherwise });
        }
        let (variables, tokens) = match tokens {
            [Token::Variable(a), Token::Comma, Token::Variable(b), Token::Declare, rest @ ..] => {
                (vec![a.clone(), b.clone()], rest)
            }
            [Token::Variable(a), Token::Declare, rest @ ..] => (vec![a.clone()], rest),
            rest => (Vec::new(), rest),
        };
        Ok(Node::Range { over: pipeline(tokens)?, variables, body: then, otherwise })
    }
}

fn statement(tokens: &[Token]) -> Result<Node, TemplateError> {
    match tokens {
        [Token::Variable(name), Token::Declare, rest @ ..] => {
            Ok(Node::Set { name: name.clone(), value: pipeline(rest)?, declare: true })
        }
        [Token::Variable(name), Token::Assign, rest @ ..] => {
            Ok(Node::Set { name: name.clone(), value: pipeline(rest)?, declare: false })
        }
        rest => Ok(Node::Print(pipeline(rest)?)),
    }
}

fn pipeline(tokens: &[Token]) -> Result<Expr, TemplateError> {
    let mut at = 0;
    let expr = piped(tokens, &mut at, 0)?;
    match tokens.get(at) {
        None => Ok(expr),
        Some(Token::Close) => Err(TemplateError::new("unbalanced parenthesis")),
        Some(_) => Err(TemplateError::new("unexpected token in an action")),
    }
}

/// Commands joined by `|`, up to a closing parenthesis or the end.
fn piped(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Expr, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::new("nested too deeply"));
    }
    let mut value = command(tokens, at, depth, None)?;
    while tokens.get(*at) == Some(&Token::Pipe) {
        *at += 1;
        value = command(tokens, at, depth, Some(value))?;
    }
    Ok(value)
}

/// A function with its operands, or a single operand.
fn command(tokens: &[Token], at: &mut usize, depth: usize, input: Option<Expr>) -> Result<Expr, TemplateError> {
    let mut expr = match tokens.get(*at) {
        Some(Token::Word(word)) if !matches!(word.as_str(), "true" | "false" | "nil") => {
            let function =
                Function::named(word).ok_or_else(|| TemplateError::new(format!("function {word:?} does not exist")))?;
            *at += 1;
            Expr::Call(function, Vec::new())
        }
        None | Some(Token::Pipe | Token::Close) => {
            return Err(TemplateError::new("missing value for command"));
        }
        Some(_) => operand(tokens, at, depth)?,
    };
    let mut operands = Vec::new();
    while !matches!(tokens.get(*at), None | Some(Token::Pipe | Token::Close)) {
        operands.push(operand(tokens, at, depth)?);
    }
    operands.extend(input);
    match &mut expr {
        Expr::Call(_, list) | Expr::Fields(_, _, list) => *list = operands,
        _ if operands.is_empty() => {}
        _ => return Err(TemplateError::new("only functions take operands")),
    }
    Ok(expr)
}

fn operand(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Expr, TemplateError> {
    let token = tokens.get(*at).ok_or_else(|| TemplateError::new("missing operand"))?;
    *at += 1;
    let expr = match token {
        Token::Fields { names, .. } if names.is_empty() => Expr::Dot,
        Token::Fields { names, .. } => Expr::Fields(Box::new(Expr::Dot), names.clone(), Vec::new()),
        Token::Variable(name) => Expr::Variable(name.clone()),
        Token::Text(text) => Expr::Literal(Value::String(text.clone())),
        Token::Number(number) => Expr::Literal(Value::Number(number.clone())),
        Token::Word(word) => match word.as_str() {
            "true" => Expr::Literal(true.into()),
            "false" => Expr::Literal(false.into()),
            "nil" => Expr::Literal(Value::Null),
            word => match Function::named(word) {
                Some(function) => Expr::Call(function, Vec::new()),
                None => return Err(TemplateError::new(format!("function {word:?} does not exist"))),
            },
        },
        Token::Open => {
            let inner = piped(tokens, at, depth + 1)?;
            if tokens.get(*at) != Some(&Token::Close) {
                return Err(TemplateError::new("unbalanced parenthesis"));
            }
            *at += 1;
            inner
        }
        Token::Pipe | Token::Close | Token::Declare | Token::Assign | Token::Comma => {
            return Err(TemplateError::new("unexpected token in an action"));
        }
    };
    match tokens.get(*at) {
        Some(Token::Fields { names, glued: true }) => {
            *at += 1;
            Ok(Expr::Fields(Box::new(expr), names.clone(), Vec::new()))
        }
        _ => Ok(expr),
    }
}
