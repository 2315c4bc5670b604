//! CEL rules (`x-kubernetes-validations`).

mod functions;
mod value;

use std::sync::{Arc, OnceLock};

use cel::common::types::{CelBool, CelDouble, CelInt, CelNull, CelString};
use cel::common::value::Val;
use cel::{Context, Env, ParseErrors, Program};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Finding;
use crate::path::Path;
use crate::schema::Schema;

/// One rule. A keyword of rules that is not here is a fault of `schemas/`, which a test finds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    rule: String,
    message: String,
    #[serde(skip)]
    program: OnceLock<Option<Program>>,
}

impl Rule {
    pub(crate) fn compile(&self) -> Result<Program, ParseErrors> {
        environment().compile(&self.rule)
    }

    /// Why it does not hold; none if it does. `self` is in the context.
    fn broken(&self, context: &Context<'_, '_>) -> Option<String> {
        // What does not compile cannot hold; a test compiles every rule there is.
        let Some(program) = self.program.get_or_init(|| self.compile().ok()) else {
            return Some(format!("rule compile error: {}", self.rule));
        };
        match cel::Value::resolve_val(program.expression(), context) {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(holds) if *holds.inner() => None,
                _ => Some(self.message.clone()),
            },
            Err(error) => Some(format!("{error} evaluating rule: {}", self.message)),
        }
    }

    /// A rule about a change: an API server does not ask it when an object is created.
    fn is_transition(&self) -> bool {
        self.rule.contains("oldSelf")
    }
}

/// Evaluates the rules of an object whose shape is right, and of every value in it. None of our kinds' rules asks for its metadata.
pub(crate) fn check(object: &Map<String, Value>, schema: &Schema, findings: &mut Vec<Finding>) {
    let first = findings.len();
    let val = fields(object, schema, &Path::Root, findings);
    judge(&val, schema, &Path::Root, first, findings);
}

/// Makes the CEL value of a JSON value from the inside out and evaluates the rules of each on the way, so that nothing is converted twice.
fn evaluate(value: &Value, schema: &Schema, path: &Path<'_>, findings: &mut Vec<Finding>) -> Box<dyn Val> {
    let first = findings.len();
    let val: Box<dyn Val> = match value {
        Value::Object(object) => Box::new(fields(object, schema, path, findings)),
        Value::Array(items) => {
            let nested = schema.items.as_deref().unwrap_or(&EMPTY);
            let items = items.iter().enumerate().map(|(index, item)| evaluate(item, nested, &path.index(index), findings));
            Box::new(value::Items::new(items.collect()))
        }
        Value::String(text) => Box::new(CelString::from(text.clone())),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Box::new(CelInt::from(integer)),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::Bool(boolean) => Box::new(CelBool::from(*boolean)),
        Value::Null => Box::new(CelNull),
    };
    judge(val.as_ref(), schema, path, first, findings);
    val
}

/// Evaluates a value's own rules. An API server judges a value before what is within it: what is found goes before the `first` of the children's.
fn judge(val: &dyn Val, schema: &Schema, path: &Path<'_>, first: usize, findings: &mut Vec<Finding>) {
    if schema.rules.iter().all(Rule::is_transition) {
        return;
    }
    let mut context = Context::with_env(Arc::clone(environment()));
    context.add_variable_as_val("self", val.clone_as_boxed());
    let of_type = schema.r#type.map_or("object", crate::schema::Type::name);
    let broken = schema.rules.iter().filter(|rule| !rule.is_transition()).filter_map(|rule| rule.broken(&context));
    let own: Vec<Finding> = broken.map(|why| path.says(format!("Invalid value: \"{of_type}\": {why}"))).collect();
    findings.splice(first..first, own);
}

fn fields(object: &Map<String, Value>, schema: &Schema, path: &Path<'_>, findings: &mut Vec<Finding>) -> value::Fields {
    let mut fields = Vec::with_capacity(object.len());
    for (name, nested) in object {
        if let Some(property) = schema.properties.get(name) {
            fields.push((value::field_name(name), evaluate(nested, property, &path.field(name), findings)));
        } else {
            let values = schema.additional_properties.as_deref().unwrap_or(&EMPTY);
            fields.push((name.clone(), evaluate(nested, values, &path.key(name), findings)));
        }
    }
    value::Fields::new(fields)
}

static EMPTY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| Arc::new(functions::environment()))
}
