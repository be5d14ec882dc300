//! The files of `deploy/`: each is what its program takes, and they agree with each other and with the programs.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use devstack::{paths::Paths, services::nats, testing::binary};
use serde_json::Value;

use crate::debian::{self, run, workspace};

/// Keys that a service may have, so that a typing error doesn't pass for one of Compose's.
const KEYS: [&str; 21] = [
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "environment",
    "healthcheck",
    "image",
    "logging",
    "mem_limit",
    "pid",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "tmpfs",
    "ulimits",
    "volumes",
];
/// What a drain takes beyond its own time: the last sockets' and the last requests' seconds.
const LAST_WORDS: u64 = 10;

fn read(file: &str) -> String {
    std::fs::read_to_string(workspace().join("deploy").join(file)).unwrap()
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flat_map(|map| map.keys()).map(String::as_str).collect()
}

/// Seconds of a setting or of a duration such as `45s`.
fn seconds(value: &Value) -> u64 {
    value.as_str().unwrap().trim_end_matches('s').parse().unwrap()
}

#[test]
fn compose_is_whole() {
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        let unknown: Vec<_> = keys(service).difference(&KEYS.into()).copied().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
        let (image, tag) = service["image"].as_str().unwrap().split_once(':').unwrap();
        assert!(tag != "latest", "{name}: any {image}");
        for mount in texts(&service["volumes"]) {
            let (source, target) = mount.split_once(':').unwrap();
            // The node exporter measures the machine's own disks.
            if source == "/" {
                assert!(target.contains(":ro"), "{name} may write to the machine");
                continue;
            }
            match source.strip_prefix("./") {
                Some(file) => {
                    assert!(workspace().join("deploy").join(file).exists(), "{name} mounts {source}");
                    assert!(target.ends_with(":ro"), "{name} may write {source}");
                }
                None => assert!(keys(&compose["volumes"]).contains(source), "{name}: volume {source}"),
            }
        }
        let confined = texts(&service["security_opt"]).contains(&"no-new-privileges:true");
        assert!(service["read_only"] == true && confined, "{name} may write to its image, or gain privileges");
        assert!(service["mem_limit"].is_string() && service["logging"]["options"]["max-size"].is_string(), "{name}");
        let awaited = &service["depends_on"];
        for other in texts(awaited).into_iter().chain(keys(awaited)) {
            let awaited = &awaited[other]["condition"];
            let other = services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}"));
            assert!(awaited != "service_healthy" || other["healthcheck"].is_object(), "{name} waits for ever");
        }
        // Published to the world: the balancer alone.
        for port in texts(&service["ports"]) {
            assert!(name == "haproxy" || port.starts_with("127.0.0.1:"), "{name} is open to all: {port}");
        }
    }
}

#[test]
fn compose_sets_what_the_programs_know() {
    let compose = yaml("compose.yaml");
    // The schema's owner migrates, and nothing else runs as that; every program has a role and a NATS user of its own.
    let users = |service: &str, setting: &str| {
        let url = compose["services"][service]["environment"][setting].as_str().unwrap_or_default();
        let users = url.split(',').filter_map(|url| Some(url.split_once("://")?.1.split_once(':')?.0.to_owned()));
        users.collect::<BTreeSet<_>>()
    };
    assert_eq!(texts(&compose["services"]["migrate"]["command"]), ["/usr/local/bin/persister", "migrate"]);
    for (service, role, user) in [
        ("migrate", "partyline_owner", None),
        ("gateway-1", "partyline_gateway", Some("gateway")),
        ("gateway-2", "partyline_gateway", Some("gateway")),
        ("persister", "partyline_persister", Some("persister")),
    ] {
        assert_eq!(users(service, "PARTYLINE_DATABASE_URL"), BTreeSet::from([role.to_owned()]), "{service}");
        let user: BTreeSet<_> = user.into_iter().map(str::to_owned).collect();
        assert_eq!(users(service, "PARTYLINE_NATS_URL"), user, "{service}");
        let awaited = &compose["services"][service]["depends_on"]["migrate"]["condition"];
        assert!(service == "migrate" || awaited == "service_completed_successfully", "{service}");
    }
    for (service, program) in [("gateway-1", "gateway"), ("gateway-2", "gateway"), ("persister", "persister")] {
        let service = &compose["services"][service];
        let help = Command::new(binary(program).unwrap()).arg("--help").output().unwrap();
        // clap may break the lines.
        let help = String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        let environment = &service["environment"];
        for name in keys(environment) {
            let told = ["=", "]"].iter().any(|end| help.contains(&format!("[env: {name}{end}")));
            assert!(told, "{program} knows no {name}");
        }
        assert!(texts(&service["cap_drop"]) == ["ALL"], "{program}");
        let check = texts(&service["healthcheck"]["test"]);
        assert_eq!(check, ["CMD", &format!("/usr/local/bin/{program}"), "healthcheck"]);
        if program == "gateway" {
            let drain = ["PARTYLINE_DRAIN_NOTICE_SECONDS", "PARTYLINE_DRAIN_SECONDS"]
                .map(|name| seconds(&environment[name]))
                .iter()
                .sum::<u64>();
            assert!(seconds(&service["stop_grace_period"]) > drain + LAST_WORDS, "killed while it drains");
        }
    }
}

#[test]
fn the_parts_name_each_other() {
    let compose = yaml("compose.yaml");
    let services = keys(&compose["services"]);
    let is_there = |address: &str, in_file: &str| {
        let (host, _) = address.split_once(':').unwrap();
        assert!(services.contains(host), "{in_file}: no service {host}");
    };
    let prometheus = yaml("prometheus/prometheus.yml");
    for job in prometheus["scrape_configs"].as_array().unwrap() {
        texts(&job["static_configs"][0]["targets"]).iter().for_each(|target| is_there(target, "prometheus.yml"));
    }
    let alertmanagers = &prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"];
    texts(alertmanagers).iter().for_each(|target| is_there(target, "prometheus.yml"));
    let grafana = yaml("grafana/provisioning/datasources/prometheus.yml");
    is_there(grafana["datasources"][0]["url"].as_str().unwrap().strip_prefix("http://").unwrap(), "Grafana");
    let haproxy = read("haproxy/haproxy.cfg");
    let defaults: Vec<_> = haproxy.split("${PARTYLINE_GATEWAY_").skip(1).collect();
    assert_eq!(defaults.len(), 4, "two gateways, in two backends");
    for default in defaults {
        let address = default.split_once('-').unwrap().1.split('}').next().unwrap();
        assert!(address.ends_with(":8080"), "{address}");
        is_there(address, "haproxy.cfg");
    }
    for route in read("nats/cluster.conf").split("nats://").skip(1) {
        is_there(route, "cluster.conf");
    }
}

#[test]
fn the_image_is_built_of_what_there_is() {
    let dockerfile = read("Dockerfile");
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{rust}-")), "the workspace needs Rust {rust}");
    assert!(dockerfile.lines().any(|line| line == "USER nonroot"));
    // Cargo wants every member of the workspace.
    let ignored = read("Dockerfile.dockerignore");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    for member in serde_json::from_str::<Vec<String>>(members).unwrap() {
        assert!(ignored.lines().any(|line| line == format!("!{member}")), "{member} stays outside");
    }
}

#[test]
fn nats_server_takes_its_files() {
    let paths = Paths::new(None).unwrap();
    let server = nats::find(&paths.tools, &|line| println!("{line}")).unwrap();
    for file in ["single", "cluster"] {
        let checked = Command::new(&server)
            .args(["-t", "-c", &format!("deploy/nats/{file}.conf")])
            .envs([("NATS_SERVER_NAME", "nats-1"), ("NATS_STORE_DIR", "/data")])
            .envs(["NATS_PASSWORD", "NATS_GATEWAY_PASSWORD", "NATS_PERSISTER_PASSWORD"].map(|name| (name, "secret")))
            .current_dir(workspace())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{file}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// `-t` reads a file; only a start compares an account's limit with the server's.
#[test]
fn nats_server_starts_by_itself_on_its_file() {
    let paths = Paths::new(None).unwrap();
    let server = nats::find(&paths.tools, &|line| println!("{line}")).unwrap();
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("single-nats-{}", std::process::id()));
    let mut running = Command::new(&server)
        .args(["-c", "deploy/nats/single.conf", "-a", "127.0.0.1", "-p", "-1", "-m", "-1"])
        .env("NATS_SERVER_NAME", "nats-1")
        .envs(["NATS_PASSWORD", "NATS_GATEWAY_PASSWORD", "NATS_PERSISTER_PASSWORD"].map(|name| (name, "secret")))
        .env("NATS_STORE_DIR", &store)
        .current_dir(workspace())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The lines end with the process, if it does not start.
    let mut lines = Vec::new();
    for line in BufReader::new(running.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().unwrap().contains("Server is ready") {
            break;
        }
    }
    running.kill().unwrap();
    running.wait().unwrap();
    std::fs::remove_dir_all(&store).unwrap();
    assert!(lines.last().is_some_and(|line| line.contains("Server is ready")), "{lines:#?}");
}

#[test]
fn haproxy_takes_its_file() {
    let Some(haproxy) = debian::program("haproxy", "haproxy") else { return };
    let addresses = "PARTYLINE_GATEWAY_1=127.0.0.1:1 PARTYLINE_GATEWAY_2=127.0.0.1:2";
    let check = format!("{addresses} '{}' -c -f deploy/haproxy/haproxy.cfg", haproxy.display());
    let (good, said) = run(Path::new("sh"), &["-c", &check]);
    assert!(good && !said.contains("WARNING"), "{said}");
}
