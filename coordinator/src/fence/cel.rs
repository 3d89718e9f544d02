//! The rule of the fence, in the language of admission policies.

/// A text as a literal. Everything but plain printable ASCII is written as a code, so that no text can end the literal.
pub(super) fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for char in text.chars() {
        match char {
            '\\' | '\'' => literal.extend(['\\', char]),
            ' '..='~' => literal.push(char),
            _ => literal.push_str(&format!("\\U{:08x}", u32::from(char))),
        }
    }
    literal.push('\'');
    literal
}

/// Texts as a list of literals.
pub(super) fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// The variable that lists the claims.
pub(super) const CLAIMS: &str = "claims";

/// Variables of the rule with their expressions, each of which may use those before it.
pub(super) fn variables(claims: &[String], agents: &[String], user: &str) -> Vec<(&'static str, String)> {
    let volumes = "has(object.spec.volumes) ? object.spec.volumes : []";
    let names = "variables.volumes.exists(v, has(v.persistentVolumeClaim) && \
                 v.persistentVolumeClaim.claimName in variables.claims)";
    // Of a pod that has no name yet the end of its claims' names is known.
    let makes = "variables.volumes.exists(v, has(v.ephemeral) && variables.claims.exists(c, variables.name == '' ? \
                 c.endsWith('-' + v.name) : c == variables.name + '-' + v.name))";
    let is_agent = format!("variables.name in {} && request.userInfo.username == {}", list(agents), literal(user));
    vec![
        (CLAIMS, list(claims)),
        ("volumes", volumes.to_owned()),
        ("name", "has(object.metadata.name) ? object.metadata.name : ''".to_owned()),
        ("usesClaim", format!("({names}) || ({makes})")),
        ("isAgent", is_agent),
    ]
}

/// What has to be true of a pod that is admitted.
pub(super) const RULE: &str = "!variables.usesClaim || variables.isAgent";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_end_its_literal() {
        for (text, expected) in [
            ("data", "'data'"),
            ("it's", r"'it\'s'"),
            (r"a\", r"'a\\'"),
            ("a\nb", r"'a\U0000000ab'"),
            ("' in []) || true || ('", r"'\' in []) || true || (\''"),
            ("ü🦀", r"'\U000000fc\U0001f980'"),
        ] {
            assert_eq!(literal(text), expected);
        }
        assert_eq!(list(&["a".to_owned(), "b'".to_owned()]), r"['a', 'b\'']");
        assert_eq!(list(&[]), "[]");
    }

    #[test]
    fn an_agent_is_its_exact_name_and_its_user() {
        let variables = variables(&["data".to_owned()], &["agent-1".to_owned()], "system:serviceaccount:n:s");
        let expected = "variables.name in ['agent-1'] && request.userInfo.username == 'system:serviceaccount:n:s'";
        assert!(variables.contains(&("isAgent", expected.to_owned())), "{variables:?}");
        assert!(variables.contains(&("claims", "['data']".to_owned())), "{variables:?}");
    }
}
