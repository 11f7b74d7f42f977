//! A tree and a value to text.

use std::borrow::Cow;

use serde_json::Value;

use super::TemplateError;
use super::functions::{display, truth};
use super::parse::{Expr, Node};

/// The dot, the root and the variables in force.
pub(super) struct Scope<'a> {
    root: &'a Value,
    methods: &'a Value,
    dot: Cow<'a, Value>,
    variables: Vec<(String, Value)>,
}

impl<'a> Scope<'a> {
    /// A template's outermost scope.
    pub(super) fn new(root: &'a Value, methods: &'a Value) -> Self {
        Self { root, methods, dot: Cow::Borrowed(root), variables: Vec::new() }
    }

    /// Appends what `nodes` print.
    pub(super) fn run(&mut self, nodes: &[Node], out: &mut String) -> Result<(), TemplateError> {
        let visible = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(expr) => {
                    let value = self.value(expr)?;
                    display(&value, out);
                }
                Node::Set { name, value, declare } => {
                    let value = self.value(value)?;
                    match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                        Some((_, slot)) if !declare => *slot = value,
                        None if !declare => return Err(undefined(name)),
                        _ => self.variables.push((name.clone(), value)),
                    }
                }
                Node::Branch { test, with, then, otherwise } => {
                    let value = self.value(test)?;
                    if !truth(&value) {
                        self.run(otherwise, out)?;
                    } else if *with {
                        self.with_dot(value, then, out)?;
                    } else {
                        self.run(then, out)?;
                    }
                }
                Node::Range { over, variables, body, otherwise } => {
                    self.range(over, variables, body, otherwise, out)?
                }
            }
        }
        self.variables.truncate(visible);
        Ok(())
    }

    fn with_dot(&mut self, dot: Value, nodes: &[Node], out: &mut String) -> Result<(), TemplateError> {
        let outer = std::mem::replace(&mut self.dot, Cow::Owned(dot));
        let result = self.run(nodes, out);
        self.dot = outer;
        result
    }

    fn range(
        &mut self,
        over: &Expr,
        names: &[String],
        body: &[Node],
        otherwise: &[Node],
        out: &mut String,
    ) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match self.value(over)? {
            Value::Array(list) => list.into_iter().enumerate().map(|(index, item)| (index.into(), item)).collect(),
            Value::Object(map) => map.into_iter().map(|(key, item)| (Value::String(key), item)).collect(),
            Value::Null => Vec::new(),
            other => return Err(TemplateError::new(format!("range cannot go over {other}"))),
        };
        if items.is_empty() {
            return self.run(otherwise, out);
        }
        let visible = self.variables.len();
        for (key, item) in items {
            match names {
                [value] => self.variables.push((value.clone(), item.clone())),
                [index, value] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            self.with_dot(item, body, out)?;
            self.variables.truncate(visible);
        }
        Ok(())
    }

    fn value(&self, expr: &Expr) -> Result<Value, TemplateError> {
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Dot => Ok(self.dot.clone().into_owned()),
            Expr::Variable(name) if name.is_empty() => Ok(self.root.clone()),
            Expr::Variable(name) => self.variable(name).cloned(),
            Expr::Fields(base, names, operands) => self.fields(base, names, operands),
            Expr::Call(function, operands) => {
                let operands = operands.iter().map(|operand| self.value(operand)).collect::<Result<Vec<_>, _>>()?;
                function.call(&operands)
            }
        }
    }

    fn variable(&self, name: &str) -> Result<&Value, TemplateError> {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value).ok_or_else(|| undefined(name))
    }

    fn fields(&self, base: &Expr, names: &[String], operands: &[Expr]) -> Result<Value, TemplateError> {
        if let ([name], [key], Expr::Dot) = (names, operands, base)
            && let Some(map) = self.methods.get(name)
        {
            let key = self.value(key)?;
            return Ok(key.as_str().and_then(|key| map.get(key)).cloned().unwrap_or_else(|| "".into()));
        }
        let owned;
        let mut value: &Value = match base {
            Expr::Dot => &self.dot,
            Expr::Variable(name) if name.is_empty() => self.root,
            Expr::Variable(name) => self.variable(name)?,
            other => {
                owned = self.value(other)?;
                &owned
            }
        };
        for name in names {
            // A field of nothing is nothing, as an absent object in a list of optional ones.
            if value.is_null() {
                break;
            }
            value = value.get(name).ok_or_else(|| TemplateError::new(format!("no field {name:?} here")))?;
        }
        if operands.is_empty() {
            return Ok(value.clone());
        }
        Err(TemplateError::new(format!("field {:?} takes no operand", names.join("."))))
    }
}

fn undefined(name: &str) -> TemplateError {
    TemplateError::new(format!("undefined variable ${name}"))
}
