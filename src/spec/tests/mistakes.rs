//! One mistake a row, found where it is.

use super::{parsed, process, tiny};

/// One mistake a row: the line it is found in and words of its message or hint.
#[test]
#[allow(clippy::too_many_lines)] // a table
#[rustfmt::skip]
fn mistakes_are_found_where_they_are() {
    let before = |head: &str, rest: &str| format!("{head}{}", tiny(rest));
    let t = |rest: &str| tiny(rest);
    let p = |rest: &str| process(rest);
    let int = |body: &str| format!("[parameters.a]\ntype = \"int\"\n{body}");
    let load = |rest: &str| tiny(&format!("[load]\n{rest}"));
    let request = |rest: &str| tiny(&format!("[[load.requests]]\n{rest}"));
    let docker = |rest: &str| {
        let head = "study = { trials = 3 }\nload = { requests = [{ path = \"/\" }] }\n[sut]\nkind = \"docker\"\nservice = \"api\"\nurl = \"http://127.0.0.1:1\"";
        format!("{head}\n{rest}")
    };
    let rows: Vec<(String, usize, &str)> = vec![
        // the tree
        ("[study".into(), 1, "expected"),
        ("a = 1\na = 2".into(), 2, "duplicate"),
        (String::new(), 1, "`parameters` is missing"),
        ("parameters = 3".into(), 1, "must be tables"),
        ("[parameters]".into(), 1, "`parameters` is missing"),
        ("[parameters]\na = 3".into(), 2, "must be a table"),
        (t("[paramters.b]"), 6, "did you mean `parameters`?"),
        (t("[slo]\nerorrs = 1"), 7, "did you mean `errors`?"),
        (t("[load]\np99 = \"1s\"\nrequests = [{ path = \"/\" }]"), 7, "belongs to [slo]"),
        (t("[slo]\nerrors = []"), 7, "must be a share"),
        (t("[slo]\nerrors = \"5 parrots\""), 7, "must be a share"),
        (t("[slo]\nerrors = \"100%\""), 7, "every rate would do"),
        (t("[slo]\nerrors = \"1%\"\nsuccess = \"99%\""), 8, "keep one"),
        (t("[slo]\np99 = 250"), 7, "a time such as"),
        (t("[slo]\np99 = \"0s\""), 7, "above 0"),
        (t("[capacity]\nconfirm = \"1ms\""), 7, "from 1.0 s"),
        (t("[capacity]\nstart = 50\nmax = 20"), 7, "above `max`"),
        (t("[capacity]\nprecision = \"90%\""), 7, "50%"),
        (t("[confirm]\npairs = 0"), 7, "whole number from 1"),
        (t("[confirm]\npairs = 2.5"), 7, "whole number"),
        (t("[study]\nname = \"../up\""), 7, "folder"),
        (t("[study]\nbudget = \"1h\"\n[confirm]\nreserve = \"2h\""), 9, "whole budget"),
        // parameters
        ("[parameters.1a]\ntype = \"int\"".into(), 1, "can't be a parameter's name"),
        ("[parameters.if]\ntype = \"int\"".into(), 1, "word of the expression language"),
        ("[parameters.true]\ntype = \"int\"".into(), 1, "word of the expression language"),
        ("[parameters.cost]\ntype = \"int\"".into(), 1, "trials.csv has a column"),
        (int("low = 5\nhigh = 1"), 4, "below `low`"),
        (int("low = 1"), 1, "`high` is missing"),
        (int("low = 1\nhigh = 9.5"), 4, "whole number"),
        (int("low = 1\nhigh = \"9\""), 4, "whole number"),
        (int("low = 1\nhigh = 9\nstep = 0"), 5, "at least 1"),
        (int("low = 1\nhigh = 9\nstep = 3"), 5, "set high to 7 or 10"),
        (int("low = -1\nhigh = 9\nlog = true"), 5, "log scale"),
        (int("low = 1\nhigh = 9999999999999"), 4, "whole numbers are between"),
        (int("low = 1\nhigh = 9\nbaseline = 10"), 5, "not one of 1 to 9"),
        (int("low = 1\nhigh = 9\nstep = 2\nbaseline = 4"), 6, "by 2"),
        (int("low = 1\nhigh = 9"), 1, "no baseline"),
        (int("low = 1\nhigh = 9\nvalues = [1]"), 5, "not for type"),
        (int("low = 1\nhigh = 9\nbaseline = 1\nenv = \"A\"\nlimit = \"cpus\""), 7, "two things"),
        (int("low = 1\nhigh = 9\nbaseline = 1\nenv = \"A B\""), 6, "no name of an environment variable"),
        ("[parameters.a]\ntype = \"float\"\nlow = 0\nhigh = 1\nstep = 0.3".into(), 5, "does not divide"),
        ("[parameters.a]\ntype = \"float\"\nlow = 0\nhigh = 1\nstep = -1".into(), 5, "above 0"),
        ("[parameters.a]\ntype = \"float\"\nlow = nan\nhigh = 1".into(), 3, "finite"),
        ("[parameters.a]\ntype = \"choice\"\nvalues = []".into(), 3, "empty"),
        ("[parameters.a]\ntype = \"choice\"".into(), 1, "`values` is missing"),
        ("[parameters.a]\ntype = \"choice\"\nvalues = [1, 1.0]".into(), 3, "twice"),
        ("[parameters.a]\ntype = \"choice\"\nvalues = [1, \"x\"]".into(), 3, "all numbers"),
        ("[parameters.a]\ntype = \"choice\"\nvalues = [1]\nlow = 1".into(), 4, "a choice has `values`"),
        ("[parameters.a]\ntype = \"chioce\"".into(), 2, "did you mean \"choice\"?"),
        (int("low = 0\nhigh = 9\nbaseline = 1\nenv = \"POOL_SIZE\""), 3, "no limit at all"),
        (int("low = -1\nhigh = 9\nbaseline = 1\nenv = \"DB_MAX_OVERFLOW\""), 3, "no limit at all"),
        (int("low = 0\nhigh = 9\nbaseline = 1\nenv = \"WEB_CONCURRENCY\""), 3, "workers"),
        ("[parameters.a]\ntype = \"choice\"\nvalues = [5, 0]\nbaseline = 5\nenv = \"POOL_SIZE\"".into(), 3, "no limit at all"),
        (docker("[parameters.m]\ntype = \"int\"\nlow = 4\nhigh = 64\nlimit = \"memory\""), 9, "at least 6 MiB"),
        (docker("[parameters.m]\ntype = \"float\"\nlow = 64\nhigh = 128\nlimit = \"memory\""), 9, "whole number of MiB"),
        (docker("[parameters.c]\ntype = \"float\"\nlow = 0.001\nhigh = 1\nlimit = \"cpus\""), 9, "at least 0.01"),
        (docker("[parameters.c]\ntype = \"int\"\nlow = 0\nhigh = 3\nreplicas = true"), 9, "1 to 100"),
        (docker("[parameters.c]\ntype = \"choice\"\nvalues = [\"a\"]\nlimit = \"cpus\""), 9, "must be numbers"),
        (docker("[parameters.a]\ntype = \"int\"\nlow = 1\nhigh = 3\n"), 7, "sets nothing"),
        (p("[parameters.b]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\nlimit = \"cpus\""), 15, "needs a container"),
        (p("[parameters.b]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\nenv = \"A\""), 10, "both set"),
        (t("[parameters.b]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\nonly_if = \"a\""), 11, "true or false"),
        (t("[parameters.b]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1\nonly_if = \"c > 1\"\n[parameters.c]\ntype = \"int\"\nlow = 1\nhigh = 3\nbaseline = 1", ), 11, "move it up"),
        // expressions
        (t("[[constraints]]\nthat = \"aa + 1 < 5\""), 7, "did you mean `a`?"),
        (t("[[constraints]]\nthat = \"a + < 5\""), 7, "no expression"),
        (t("[[constraints]]\nthat = \"a + 1\""), 7, "true or false"),
        (t("[[constraints]]\nthat = \"a = 1\""), 7, "no expression"),
        (t("[[constraints]]\nthat = \"a <= 1\""), 7, "2 against 1"),
        (t("[[constraints]]\nthat = \"${A} <= 1\""), 7, "not read here"),
        (t("[[constraints]]\nwhy = \"x\""), 6, "`that` is missing"),
        (t("[objective]\ncost = \"a > 1\""), 7, "must be a number"),
        (t("[objective]\ncost = \"a - 100\""), 7, "at least 0"),
        (t("[objective]\nminimize = \"cost\"\nat = 5"), 7, "needs `cost`"),
        (t("[objective]\ncost = \"a\"\nminimize = \"cost\""), 6, "`at` is missing"),
        (t("[objective]\ncost = \"a\"\nat = 5"), 8, "belongs to `minimize`"),
        (t("[objective]\ncost = \"a\"\nminimize = \"cost\"\nat = 50000"), 9, "above the highest rate"),
        (t("[budget]\nconnections = 100"), 6, "can't be told"),
        (t("[budget]\nconnections = \"postgres\"\nuses = \"a\""), 7, "no database to ask"),
        (t("[budget]\nconnections = 3\nuses = \"a\"\nheadroom = 3"), 7, "leaves nothing"),
        (t("[budget]\nconnections = 3\nuses = \"a * 4\""), 7, "8 against 3"),
        // a range whose step is wrong still has ends
        (int("low = 1\nhigh = 9\nstep = 0\nbaseline = 50\nenv = \"A\""), 6, "not within 1 to 9"),
        // the sut
        (before("[sut]\nurl = \"http://127.0.0.1:1\"\n", ""), 1, "`kind` is missing"),
        (before("[sut]\nkind = \"process\"\n", ""), 1, "`command` is missing"),
        (before("[sut]\nkind = \"command\"\nurl = \"http://127.0.0.1:1\"\n", ""), 1, "`deploy` is missing"),
        (before("[sut]\nkind = \"docker\"\nurl = \"http://127.0.0.1:1\"\n", ""), 1, "needs `service` or `container`"),
        (before("[sut]\nkind = \"docker\"\nservice = \"a\"\n", ""), 1, "`url` is missing"),
        (before("[sut]\nkind = \"docker\"\nservice = \"a\"\ncontainer = \"b\"\n", ""), 4, "exclude each other"),
        (before("[sut]\nkind = \"demo\"\nservice = \"a\"\n", ""), 3, "belongs to kind = \"docker\""),
        (before("[sut]\nkind = \"docker\"\nservice = \"a\"\nurl = \"http://127.0.0.1:0\"\n", ""), 4, "needs a port"),
        (before("[sut]\nkind = \"docker\"\nservice = \"a\"\nurl = \"http://example.com\"\n", ""), 4, "allow_remote"),
        (before("[sut]\nkind = \"docker\"\nservice = \"a\"\nurl = \"127.0.0.1:80\"\n", ""), 4, "begin with http://"),
        (before("[sut]\nkind = \"swarm\"\nurl = \"http://127.0.0.1:1\"\n", ""), 1, "`service` is missing"),
        (before("[sut]\nkind = \"swarm\"\nservice = \"a\"\n", ""), 1, "`url` is missing"),
        (before("[sut]\nkind = \"swarm\"\nservice = \"a\"\nurl = \"http://127.0.0.1:1\"\ntask_url = \"http://{node}:1\"\n", ""), 5, "exclude each other"),
        (before("[sut]\nkind = \"swarm\"\nservice = \"a\"\ntask_url = \"http://127.0.0.1:18301\"\n", ""), 4, "neither {node} nor {slot}"),
        (before("[sut]\nkind = \"swarm\"\nservice = \"a\"\ntask_url = \"{node}:18301\"\n", ""), 4, "begin with http://"),
        (before("[sut]\nkind = \"swarm\"\nservice = \"a\"\ntask_url = \"http://8.8.8.8:1830{slot}\"\n", ""), 4, "allow_remote"),
        (before("[sut]\nkind = \"docker\"\nservice = \"a\"\nurl = \"http://127.0.0.1:1\"\ntask_url = \"http://{node}:1\"\n", ""), 5, "belongs to kind = \"swarm\""),
        (before("[sut]\nkind = \"demo\"\nready = { path = \"ready\" }\n", ""), 3, "begin with /"),
        (before("[sut]\nkind = \"demo\"\nenv = { \"A-B\" = \"1\" }\n", ""), 3, "no name of an environment variable"),
        (before("[sut]\nkind = \"demo\"\nenv = { A = \"${NOPE}\" }\n", ""), 3, "NOPE is not set"),
        (before("[sut]\nkind = \"demo\"\nenv = { A = \"${NOPE\" }\n", ""), 3, "does not end"),
        (before("[sut]\nkind = \"demo\"\n", ""), 1, "no [load]"),
        (before("[sut]\nkind = \"demo\"\n", "env = \"A\""), 1, "when the study ends"),
        // load
        (load("timeout = \"1s\""), 6, "`requests` is missing"),
        (load("requests = []"), 6, "`requests` is missing"),
        (request("path = \"items\""), 7, "begin with /"),
        (request("path = \"/a b\""), 7, "%20"),
        (request("path = \"/{id}\""), 7, "add [load.vars.id]"),
        (request("path = \"/{idd}\"\n[load.vars.id]\nrange = [1, 2]"), 7, "did you mean `{id}`?"),
        (request("path = \"/{\""), 7, "belongs to no variable"),
        (request("path = \"/\"\nmethod = \"get\""), 8, "did you mean \"GET\"?"),
        (request("path = \"/\"\nbody = \"x\""), 8, "has no body"),
        (request("path = \"/\"\nmethod = \"POST\"\nbody = \"x\"\nbody_file = \"y\""), 10, "exclude each other"),
        (request("path = \"/\"\nmethod = \"POST\"\nbody_file = \"y\""), 9, "no such file"),
        (request("path = \"/\"\nmethod = \"POST\"\nbody = \"{idd}\"\n[load.vars.id]\nrange = [1, 2]"), 9, "did you mean `{id}`?"),
        (request("path = \"/\"\nweight = 0"), 8, "a number from"),
        (request("path = \"/\"\nexpect = [999]"), 8, "100 to 599"),
        (request("path = \"/\"\nexpect = []"), 8, "no answer would be good"),
        (request("path = \"/\"\nheaders = { \"a b\" = \"1\" }"), 8, "no header name"),
        (request("path = \"/\"\nheaders = { Connection = \"close\" }"), 8, "set by the generator"),
        (request("path = \"/\"\nheaders = { A = \"ä\" }"), 8, "visible ASCII"),
        (request("path = \"/{id}\"\n[load.vars.id]\nrange = [2, 1]"), 9, "smaller first"),
        (request("path = \"/{id}\"\n[load.vars.id]"), 8, "exactly one"),
        (request("path = \"/{id}\"\n[load.vars.id]\ncsv = \"users.csv\""), 9, "needs `column`"),
        (request("path = \"/{id}\"\n[load.vars.id]\ncsv = \"users.csv\"\ncolumn = \"idd\""), 9, "did you mean `id`?"),
        (request("path = \"/{id}\"\n[load.vars.id]\ncsv = \"binary\"\ncolumn = \"id\""), 9, "can't be used"),
        // telemetry
        (t("[telemetry]\npostgres = \"mysql://x\""), 7, "begins with postgres://"),
        (t("[telemetry]\npool = \"pool\""), 7, "begin with /"),
    ];
    let mut missed = Vec::new();
    for (text, line, words) in rows {
        let Err(errors) = parsed(&text, &[]) else {
            missed.push(format!("accepted, though {words}:\n{text}"));
            continue;
        };
        let says = |e: &crate::spec::SpecError| format!("{} {}", e.message, e.hint.as_deref().unwrap_or("")).contains(words);
        if !errors.iter().any(|e| e.line == line && says(e)) {
            missed.push(format!("line {line}: {words}\n---\n{text}\n---\n{errors}"));
        }
        assert_eq!(errors.exit_code(), 65);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n\n==========\n"));
}
