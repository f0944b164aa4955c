use serde_json::json;

use super::*;

#[track_caller]
fn reads(schema: Value, expected: Value) {
    let (inner, start) = unwrapped(&schema).unwrap();
    let read = plain(inner, &start).unwrap_or_else(|error| panic!("{schema}: {error}"));
    assert_eq!(read.schema, expected, "{schema}");
}

#[track_caller]
fn refuses(schema: Value, expected: &str) {
    let read = unwrapped(&schema).and_then(|(inner, start)| plain(inner, &start));
    let error = read.expect_err(&format!("{schema} is read")).to_string();
    assert!(error.contains(expected), "{schema}: {error}");
}

#[test]
fn issue_13_2_annotations_go_and_constraints_stay() {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-04/schema#", "$id": "x", "title": "T", "description": "d", "default": {},
        "examples": [{"minLenght": 1}], "deprecated": true, "x-order": 3, "type": "object",
        "properties": {
            "minLenght": {"type": "string", "title": "A name like a misspelt keyword", "minLength": 2.0},
            "type": {"const": 5}, "n": {"type": "integer", "format": "int64"}, "p": {"type": "string", "format": "password"},
            "set": {"type": "array", "items": [true, {}], "additionalItems": false, "uniqueItems": false}
        },
        "propertyNames": {"type": "string"}, "unevaluatedProperties": true, "required": ["type"]
    });
    let expected = json!({
        "type": "object",
        "properties": {
            "minLenght": {"type": "string", "minLength": 2}, "type": {"const": 5}, "n": {"type": "integer"},
            "p": {"type": "string"}, "set": {"type": "array", "items": [true, {}], "additionalItems": false}
        },
        "required": ["type"]
    });
    reads(schema, expected);
    reads(json!(true), json!(true));
}

#[test]
fn issue_13_2_what_is_not_understood_is_refused_with_its_path() {
    refuses(
        json!({"type": "string", "minLenght": 3}),
        "#/minLenght: \"minLenght\" is not a keyword of JSON Schema; did you mean \"minLength\"?",
    );
    refuses(
        json!({"properties": {"a/b": {"items": {"typ": "string"}}}}),
        "#/properties/a~1b/items/typ: \"typ\" is not",
    );
    refuses(
        json!({"anyOf": [true, {"additional_properties": false}]}),
        "#/anyOf/1/additional_properties: \"additional_properties\" is not a keyword of JSON Schema; did you mean \"additionalProperties\"?",
    );
    refuses(json!({"fields": {"name": "string"}}), "#/fields: \"fields\" is not a keyword of JSON Schema");
    refuses(json!({"type": "strin"}), "#/type: \"strin\" is not a type; did you mean \"string\"?");
    refuses(json!({"type": ["string", 5]}), "#/type: 5 is not a type");
    refuses(
        json!({"type": "array", "items": "string"}),
        "#/items: expected a schema (an object, true or false), found \"string\"",
    );
    refuses(json!({"not": {"type": "null"}}), "#/not: \"not\" is not supported");
    refuses(json!({"type": "array", "uniqueItems": true}), "#/uniqueItems");
    refuses(json!({"type": "string", "nullable": true}), "#/nullable");
    refuses(json!({"type": "object", "unevaluatedProperties": false}), "#/unevaluatedProperties");
    refuses(
        json!({"type": "string", "format": "date-tiem"}),
        "#/format: the format \"date-tiem\" is not supported; use one of date-time",
    );
    refuses(json!({"type": "string", "minLength": -1}), "#/minLength: expected a whole number from 0");
    refuses(json!({"type": "string", "minLength": 1.5}), "#/minLength");
    refuses(
        json!({"type": "object", "properties": {"a": {"required": true}}}),
        "#/properties/a/required: expected a list of names",
    );
    refuses(json!({"enum": []}), "#/enum");
    refuses(json!({"anyOf": []}), "#/anyOf");
    refuses(json!({"$defs": {"a": {"minimun": 1}}, "items": {"$ref": "#/$defs/a"}}), "#/$defs/a/minimun");
}

#[test]
fn issue_13_2_numbers_are_kept_exactly_or_refused() {
    let whole = |name: &str, number: Value| json!({"type": "integer", name: number});
    for number in
        [json!(0), json!(-5), json!(10.5), json!(1e3), json!(9007199254740992u64), json!(9223372036854775807u64)]
    {
        reads(whole("maximum", number.clone()), whole("maximum", number));
    }
    for number in [
        json!(9007199254740993u64),
        json!(-9007199254740995i64),
        json!(1e17),
        json!(18446744073709551615u64),
        json!(i64::MIN),
    ] {
        refuses(whole("minimum", number.clone()), "#/minimum: ");
        refuses(json!({"minimum": number}), "cannot be enforced exactly");
        refuses(whole("exclusiveMaximum", number), "#/exclusiveMaximum: ");
    }
    refuses(whole("exclusiveMaximum", json!(9007199254740992u64)), "cannot be enforced exactly");
    refuses(
        json!({"type": "integer", "maximum": 9007199254740992u64, "exclusiveMaximum": true}),
        "cannot be enforced exactly",
    );
    reads(json!({"type": "number", "maximum": 1e300}), json!({"type": "number", "maximum": 1e300}));
    refuses(json!({"type": "number", "maximum": 9007199254740993u64}), "cannot be enforced exactly");
    refuses(json!({"const": 9007199254740993u64}), "#/const: 9007199254740993 cannot");
    refuses(json!({"enum": [1, {"a": [9007199254740993u64]}]}), "#/enum/1/a/0: ");
    for step in [json!(3), json!(0.01), json!(0.1), json!(2.5)] {
        reads(whole("multipleOf", step.clone()), whole("multipleOf", step));
    }
    for step in [json!(0), json!(-1), json!(1e10), json!(0.07), json!("2")] {
        refuses(whole("multipleOf", step), "#/multipleOf");
    }
}

#[test]
fn issue_13_2_references_are_decoded() {
    let one = |name: &str, reference: &str| json!({"$defs": {name: {"enum": ["x"]}}, "items": {"$ref": reference}});
    let read = json!({"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": {"enum": ["x"]}}});
    for (name, reference) in [
        ("a/b~c", "#/$defs/a~1b~0c"),
        ("a b%", "#/$defs/a%20b%25"),
        ("~1", "#/$defs/~01"),
        ("é", "#/%24defs/%C3%A9"),
        ("", "#/$defs/"),
        ("é", "#/$defs/é"),
    ] {
        reads(one(name, reference), read.clone());
    }
    refuses(one("a", "#/$defs/b"), "#/items/$ref: \"#/$defs/b\" does not exist in this schema");
    refuses(one("a", "#/$defs/a~2"), "#/items/$ref: \"#/$defs/a~2\" has a ~");
    refuses(one("a", "#/$defs/%zz"), "percent escape");
    refuses(one("a", "other.json#/a"), "#/items/$ref: \"other.json#/a\" points outside this schema");
    refuses(one("a", "#a"), "does not exist in this schema");
    let anchored = json!({"$defs": {"a": {"$anchor": "one", "type": "null"}}, "items": {"$ref": "#one"}});
    reads(anchored, json!({"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": {"type": "null"}}}));
    let own = json!({"$id": "http://x/s", "items": {"$ref": "http://x/s#/$defs/a"}, "$defs": {"a": true}});
    reads(own, json!({"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": true}}));
    let recursive = json!({"type": "array", "items": {"$ref": "#"}});
    let node = json!({"type": "array", "items": {"$ref": "#/$defs/d0"}});
    reads(recursive, json!({"type": "array", "items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": node}}));
    let rebased = json!({"items": {"$id": "http://y", "items": {"$ref": "#/$defs/a"}}, "$defs": {"a": true}});
    refuses(rebased, "#/items/items/$ref: references inside a schema that has its own $id");
}

#[test]
fn issue_13_2_wrappers_are_unwrapped() {
    let inner = json!({"type": "string"});
    for wrapped in [
        json!({"name": "n", "strict": true, "schema": inner}),
        json!({"schema": inner}),
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": inner}}),
        json!({"type": "json_schema", "name": "n", "strict": true, "schema": inner}),
        json!({"type": "json_object", "schema": inner}),
    ] {
        reads(wrapped, inner.clone());
    }
    refuses(json!({"name": "n", "schema": {"minLenght": 1}}), "#/schema/minLenght");
    refuses(json!({"type": "json_schema", "json_schema": {"schema": {"typ": 1}}}), "#/json_schema/schema/typ");
    refuses(json!({"name": "n", "strct": true, "schema": {}}), "#/strct: unknown member \"strct\" beside \"schema\"");
    refuses(json!({"name": "n", "schema": {"$ref": "#/$defs/a", "$defs": {"a": {"typ": 1}}}}), "#/schema/$defs/a/typ");
    reads(
        json!({"properties": {"name": inner, "schema": inner}}),
        json!({"properties": {"name": inner, "schema": inner}}),
    );
}
