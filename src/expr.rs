//! Expressions of a space file: constraints, `only_if` conditions and costs.
//!
//! A thin, bounded use of rhai: no functions, loops or assignments are wanted, and an operation limit ends
//! what somebody writes anyway. Numbers are bound as floats, so that `memory_mb / 2048` is a fraction.
//! A parameter that is not active in a config is 0 (or "" or false where it is a choice of those).

use std::fmt;
use std::sync::{Arc, LazyLock};

use rhai::packages::{ArithmeticPackage, BasicMathPackage, LogicPackage, Package};
use rhai::{AST, Dynamic, Engine, OptimizationLevel, ParseErrorType, Scope};

use crate::space::{Config, Value};

const MAX_OPERATIONS: u64 = 10_000;
const MAX_LENGTH: usize = 2_000;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut e = Engine::new_raw();
    e.register_global_module(ArithmeticPackage::new().as_shared_module());
    e.register_global_module(LogicPackage::new().as_shared_module());
    e.register_global_module(BasicMathPackage::new().as_shared_module());
    e.set_max_operations(MAX_OPERATIONS);
    e.set_max_expr_depths(64);
    e.set_max_string_size(10_000);
    e.set_max_array_size(100);
    // Literals without a point are whole numbers to rhai, and 1 / 2 would be 0: here it is a half.
    e.set_fast_operators(false);
    #[allow(clippy::cast_precision_loss)]
    e.register_fn("/", |a: i64, b: i64| a as f64 / b as f64);
    e.set_max_map_size(100);
    e.set_strict_variables(true);
    for word in ["eval", "print", "debug", "switch"] {
        e.disable_symbol(word);
    }
    e.set_optimization_level(OptimizationLevel::Simple);
    e
});

/// Why an expression was refused, with the column (from 1) inside the expression where that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What is wrong and what to do.
    pub message: String,
    /// Column inside the text, from 1.
    pub column: Option<usize>,
    /// The name that is no parameter, where that is what is wrong.
    pub unknown: Option<String>,
}

/// What a parameter is in expressions, and with that what stands for it where it is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 0 where it is not active.
    Number,
    /// "" where it is not active.
    Text,
    /// false where it is not active.
    Bool,
}

impl From<bool> for Kind {
    /// Whether it is a text.
    fn from(is_text: bool) -> Self {
        if is_text { Self::Text } else { Self::Number }
    }
}

/// A compiled expression over the parameters of a space; equal when its text is.
#[derive(Clone)]
pub struct Expr {
    text: String,
    ast: Arc<AST>,
    sides: Option<Arc<(AST, AST)>>,
    names: Arc<[(String, Kind)]>,
    /// Those of `names` that the text mentions: an evaluation binds no others.
    mentioned: Arc<[(String, Kind)]>,
}

impl Expr {
    /// Compiles `text` over parameters given as (name, kind). Unknown names and anything but one
    /// expression are errors.
    pub fn compile<K: Copy + Into<Kind>>(text: &str, names: &[(String, K)]) -> Result<Self, ExprError> {
        if text.len() > MAX_LENGTH {
            return Err(ExprError {
                message: format!("an expression may have {MAX_LENGTH} characters at most"),
                column: None,
                unknown: None,
            });
        }
        let names: Arc<[(String, Kind)]> = names.iter().map(|(n, k)| (n.clone(), (*k).into())).collect();
        let scope = scope_of(&names, None);
        let parse = |part: &str| {
            ENGINE
                .compile_expression_with_scope(&scope, part)
                .map_err(|e| ExprError {
                    message: lower_first(&e.err_type().to_string()),
                    column: e.position().position(),
                    unknown: match e.err_type() {
                        ParseErrorType::VariableUndefined(name) => Some(name.clone()),
                        _ => None,
                    },
                })
        };
        let ast = parse(text)?;
        let sides =
            split_comparison(text).and_then(|(l, r)| Some(Arc::new((parse(l).ok()?, parse(r).ok()?))));
        let mentioned = names
            .iter()
            .filter(|(n, _)| text.contains(n.as_str()))
            .cloned()
            .collect();
        Ok(Self {
            text: text.to_owned(),
            ast: Arc::new(ast),
            sides,
            names,
            mentioned,
        })
    }

    /// Another expression over the same parameters.
    pub fn with_text(&self, text: &str) -> Result<Self, ExprError> {
        Self::compile(text, &self.names)
    }

    /// The text as typed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value as a number; an error says what came instead.
    pub fn number(&self, config: &Config) -> Result<f64, ExprError> {
        self.eval(&self.ast, config)
    }

    /// The value as a truth; an error says what came instead.
    pub fn truth(&self, config: &Config) -> Result<bool, ExprError> {
        let mut scope = scope_of(&self.mentioned, Some(config));
        ENGINE
            .eval_ast_with_scope::<Dynamic>(&mut scope, &self.ast)
            .map_err(|e| eval_error(&e.to_string()))?
            .as_bool()
            .map_err(|t| eval_error(&format!("`{}` gives {t}, not true or false", self.text)))
    }

    /// Both sides of a comparison, evaluated: of `a * b <= 97`, the number `a * b` and 97. None where the
    /// expression is no plain comparison of numbers.
    #[must_use]
    pub fn sides(&self, config: &Config) -> Option<(f64, f64)> {
        let sides = self.sides.as_ref()?;
        Some((
            self.eval(&sides.0, config).ok()?,
            self.eval(&sides.1, config).ok()?,
        ))
    }

    fn eval(&self, ast: &AST, config: &Config) -> Result<f64, ExprError> {
        let mut scope = scope_of(&self.mentioned, Some(config));
        let v = ENGINE
            .eval_ast_with_scope::<Dynamic>(&mut scope, ast)
            .map_err(|e| eval_error(&e.to_string()))?;
        #[allow(clippy::cast_precision_loss)]
        let n = v
            .as_float()
            .or_else(|_| v.as_int().map(|i| i as f64))
            .map_err(|t| eval_error(&format!("`{}` gives {t}, not a number", self.text)))?;
        if n.is_finite() {
            Ok(n)
        } else {
            Err(eval_error(&format!(
                "`{}` is not a finite number here",
                self.text
            )))
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({:?})", self.text)
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn eval_error(message: &str) -> ExprError {
    ExprError {
        message: lower_first(message),
        column: None,
        unknown: None,
    }
}

/// Messages begin in lower case; names inside them stay as they are.
fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

fn scope_of(names: &[(String, Kind)], config: Option<&Config>) -> Scope<'static> {
    let mut scope = Scope::new();
    for (name, kind) in names {
        let value = match config.and_then(|c| c.get(name)) {
            #[allow(clippy::cast_precision_loss)]
            Some(Value::Int(i)) => Dynamic::from_float(*i as f64),
            Some(Value::Float(x)) => Dynamic::from_float(*x),
            Some(Value::Bool(b)) => Dynamic::from_bool(*b),
            Some(Value::Text(t)) => Dynamic::from(t.clone()),
            None => match kind {
                Kind::Number => Dynamic::from_float(0.0),
                Kind::Text => Dynamic::from(String::new()),
                Kind::Bool => Dynamic::from_bool(false),
            },
        };
        scope.push_dynamic(name.clone(), value);
    }
    scope
}

/// Splits at the one top-level `<=`, `>=`, `<` or `>`; None when there is none, several, or an `&&`/`||`.
fn split_comparison(text: &str) -> Option<(&str, &str)> {
    let b = text.as_bytes();
    let (mut depth, mut quoted, mut at) = (0_i32, false, None);
    let mut i = 0;
    while i < b.len() {
        match b[i] {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'&' | b'|' => return None,
            b'<' | b'>' if depth == 0 => {
                if at.is_some() {
                    return None;
                }
                let width = if b.get(i + 1) == Some(&b'=') { 2 } else { 1 };
                at = Some((i, i + width));
                i += width - 1;
            }
            _ => {}
        }
        i += 1;
    }
    let (l, r) = at?;
    Some((text[..l].trim(), text[r..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<(String, bool)> {
        vec![
            ("pool_size".into(), false),
            ("workers".into(), false),
            ("cache".into(), true),
        ]
    }

    fn config() -> Config {
        Config::from_iter([
            ("pool_size".to_owned(), Value::Int(5)),
            ("workers".to_owned(), Value::Int(2)),
        ])
    }

    #[test]
    fn numbers_are_fractions_and_sides_are_known() {
        let e = Expr::compile("pool_size / workers", &names()).unwrap();
        assert!((e.number(&config()).unwrap() - 2.5).abs() < 1e-12);
        let c = Expr::compile("(pool_size + 2) * workers <= 97", &names()).unwrap();
        assert_eq!(c.sides(&config()), Some((14.0, 97.0)));
        assert!(c.truth(&config()).unwrap());
    }

    /// docs/space-file.md promises these.
    #[test]
    fn the_documented_language_works() {
        let number = |t: &str| Expr::compile(t, &names()).unwrap().number(&config()).unwrap();
        for (text, value) in [
            ("5 / 2", 2.5),
            ("pool_size + 1 / 2", 5.5),
            ("7 % 4 - 1", 2.0),
            ("2 * (3 + 4)", 14.0),
            ("min(pool_size, 3.0) + max(1, 2)", 5.0),
            ("min(pool_size, 3) + max(1, pool_size)", 8.0),
            ("sqrt(16.0) + abs(-2) + floor(2.5) + ceiling(2.5)", 11.0),
        ] {
            assert!((number(text) - value).abs() < 1e-12, "{text} is {}", number(text));
        }
        for text in [
            "!(1 > 2) && (3 >= 3 || false)",
            "cache != \"on\"",
            "pool_size == 5 && workers < 3",
            "pool_size * 2 <= 10",
        ] {
            assert!(
                Expr::compile(text, &names()).unwrap().truth(&config()).unwrap(),
                "{text}"
            );
        }
        for text in [
            "eval(\"1\")",
            "print(1)",
            "let x = 1",
            "x = 1",
            "loop { }",
            "fn f() { 1 }",
            "while true {}",
            "import \"a\"",
        ] {
            assert!(Expr::compile(text, &names()).is_err(), "{text}");
        }
    }

    #[test]
    fn inactive_bools_are_false_and_messages_keep_names() {
        let e = Expr::compile(
            "ping && pool_size > 1",
            &[
                ("ping".to_owned(), Kind::Bool),
                ("pool_size".into(), Kind::Number),
            ],
        )
        .unwrap();
        assert!(!e.truth(&config()).unwrap());
        let e = Expr::compile("Pool <= 3", &[("pool".to_owned(), Kind::Number)]).unwrap_err();
        assert_eq!((e.unknown.as_deref(), e.column), (Some("Pool"), Some(1)));
        assert!(e.message.contains("Pool"), "{e}");
    }

    #[test]
    fn inactive_choice_is_the_empty_text() {
        let e = Expr::compile("cache == \"on\"", &names()).unwrap();
        assert!(!e.truth(&config()).unwrap());
    }

    #[test]
    fn mistakes_are_found_when_compiling() {
        assert!(Expr::compile("pool_sise * 2 <= 3", &names()).is_err());
        assert!(Expr::compile("pool_size <=", &names()).is_err());
        assert!(Expr::compile("pool_size = 3", &names()).is_err());
        let forever = Expr::compile("if true { 1 } else { 2 }", &names());
        assert!(forever.is_err() || forever.is_ok_and(|e| e.number(&config()).is_ok()));
    }
}
