//! The plugin for host ports writes rules with iptables, and takes them away only when a pod is ended in peace.

use std::fs;
use std::process::Command;

use crate::cluster::place;
use crate::fault::Fault;
use crate::process;

/// All of the plugin's chains, ours and those of another cluster on this machine.
const CHAINS: &str = "CNI-";

/// Both families, with the table that the rules are in as nftables names it.
const FAMILIES: [(&str, &str); 2] = [("iptables", "ip nat"), ("ip6tables", "ip6 nat")];

/// Writes down what was there; call it before the first pod.
pub(super) fn remember() -> Result<(), Fault> {
    let tables = process::capture(Command::new("nft").args(["list", "tables"]))?;
    place::write("before/tables", &tables)?;
    for (program, _) in FAMILIES {
        place::write(&format!("before/{program}"), &saved(program))?;
    }
    Ok(())
}

/// Takes away what the plugin added since.
pub(super) fn remove() -> Result<(), Fault> {
    let before = |name: &str| fs::read_to_string(place::of("before").join(name)).ok();
    for (program, table) in FAMILIES {
        let Some(then) = before(program) else { continue };
        let Some(script) = undo(&saved(program), then.contains(CHAINS)) else { continue };
        let script = place::write(&format!("before/{program}.undo"), &script)?;
        process::capture(Command::new(format!("{program}-restore")).arg("--noflush").arg(script))?;
        let is_empty = saved(program).lines().all(|line| !line.starts_with("-A") && !line.contains(" - ["));
        let was_there = before("tables").is_some_and(|tables| tables.lines().any(|line| line == format!("table {table}")));
        if is_empty && !was_there {
            process::capture(Command::new("nft").arg(format!("delete table {table}")))?;
        }
    }
    Ok(())
}

/// The rules of the table `nat`; empty where there are none.
fn saved(program: &str) -> String {
    process::capture(Command::new(format!("{program}-save")).args(["--table", "nat"])).unwrap_or_default()
}

/// What `iptables-restore --noflush` is to read. Where the plugin's chains have `others`, only the rules of our network and their chains go.
fn undo(saved: &str, others: bool) -> Option<String> {
    let chain = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let target = |line: &str| line.rsplit_once(" -j ").map(|(_, target)| target.trim().to_owned()).unwrap_or_default();
    let rules = saved.lines().filter(|line| line.starts_with("-A "));
    let (gone, chains): (Vec<&str>, Vec<String>) = if others {
        let ours: Vec<&str> = rules.filter(|line| line.contains(r#"name: \"isthmus-cluster\""#)).collect();
        let chains = ours.iter().map(|line| target(line)).filter(|target| target.starts_with(CHAINS)).collect();
        (ours, chains)
    } else {
        let into = rules.filter(|line| !chain(line).starts_with(CHAINS) && target(line).starts_with(CHAINS)).collect();
        let chains = saved.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        (into, chains.filter(|chain| chain.starts_with(CHAINS)).map(str::to_owned).collect())
    };
    if gone.is_empty() && chains.is_empty() {
        return None;
    }
    let rules = gone.iter().map(|line| format!("-D{}\n", line.trim_start_matches("-A")));
    // They may jump to one another: all are emptied before the first goes.
    let emptied = chains.iter().map(|chain| format!("-F {chain}\n"));
    let removed = chains.iter().map(|chain| format!("-X {chain}\n"));
    let script: String = rules.chain(emptied).chain(removed).collect();
    Some(format!("*nat\n{script}COMMIT\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
:CNI-DN-1 - [0:0]
:CNI-DN-2 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -j ELSE
-A CNI-DN-1 -p tcp -j DNAT --to-destination 10.244.0.9:8080
-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \"isthmus-cluster\" id: \"1\"" -j CNI-DN-1
-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \"other\" id: \"2\"" -j CNI-DN-2
COMMIT
"#;

    #[test]
    fn alone_all_chains_go_and_beside_others_only_ours() {
        let all = "*nat\n-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-F CNI-DN-1\n-F CNI-DN-2\n-F CNI-HOSTPORT-DNAT\n\
                   -X CNI-DN-1\n-X CNI-DN-2\n-X CNI-HOSTPORT-DNAT\nCOMMIT\n";
        assert_eq!(undo(SAVED, false).as_deref(), Some(all));
        let ours = "*nat\n-D CNI-HOSTPORT-DNAT -m comment --comment \"dnat name: \\\"isthmus-cluster\\\" id: \\\"1\\\"\" -j CNI-DN-1\n\
                    -F CNI-DN-1\n-X CNI-DN-1\nCOMMIT\n";
        assert_eq!(undo(SAVED, true).as_deref(), Some(ours));
        assert_eq!(undo("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ELSE\nCOMMIT\n", false), None);
    }
}
