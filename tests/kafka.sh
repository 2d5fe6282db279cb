#!/bin/bash
# A real Apache Kafka (KRaft) on this machine, for tests and for people:
#
#   tests/kafka.sh start [--brokers N] [--port P]   starts N brokers (default 1) and prints how to reach them
#   tests/kafka.sh stop                             ends them; their topics stay for the next start
#   tests/kafka.sh clean                            ends them and removes their topics
#   tests/kafka.sh status                           which brokers run
#   tests/kafka.sh consume TOPIC                    the Java console consumer, from the beginning: keys and headers
#   tests/kafka.sh tool CLASS ARGUMENTS…            any of Kafka's own tools, e.g. org.apache.kafka.tools.TopicCommand
#   tests/kafka.sh broker K start|stop|kill|pause|resume     one of them; kill is kill -9
#   tests/kafka.sh jars                             only fetches Kafka, and prints its class path
#
# Needs Java 17 or newer, and Maven the first time. What is fetched is kept in $WEIR_KAFKA_CACHE (default: weir-kafka in
# the user's cache); a cluster's state is in $WEIR_KAFKA_DIR (default: `cluster` in there). Each broker has five addresses:
#   P, P+1, …   plain          P+10, …   the controller's
#   P+20, …     SASL: PLAIN, SCRAM-SHA-512, OAUTHBEARER (unsigned tokens). User weir, password weir-secret, may do
#               everything; user outsider, password outsider-secret, nothing
#   P+30, …     TLS, with a client certificate     P+40, …   TLS and SASL
# Certificates are beside the cluster's state: server.pem (its own authority), client.p12 (password weir-secret), and
# stranger.p12, which no broker knows. `--until-exit-of PID` ends the cluster with a process.
set -euo pipefail

version=${WEIR_KAFKA_VERSION:-4.1.1}
cache=${WEIR_KAFKA_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/weir-kafka}
dir=${WEIR_KAFKA_DIR:-$cache/cluster}
heap=${WEIR_KAFKA_HEAP:-256m}
libs=$cache/libs-$version

fail() {
    echo "kafka: $*" >&2
    exit 1
}

jars() {
    [ -e "$libs/complete" ] && return
    command -v java >/dev/null || fail "Java 17 or newer is missing"
    command -v mvn >/dev/null || fail "Maven is missing"
    mkdir -p "$cache"
    # Several at once wait for the first.
    exec 9>"$cache/lock"
    flock 9
    if [ ! -e "$libs/complete" ]; then
        echo "kafka: fetching Apache Kafka $version into $libs" >&2
        mkdir -p "$libs"
        cat >"$libs/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>weir</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.3</version></dependency>
  </dependencies>
</project>
POM
        mvn -q -B -f "$libs/pom.xml" dependency:copy-dependencies -DoutputDirectory="$libs" -DincludeScope=runtime >&2 ||
            fail "Maven could not fetch Apache Kafka $version"
        touch "$libs/complete"
    fi
    flock -u 9
    exec 9>&-
}

# kafka CLASS ARGUMENTS…: one of Kafka's programs, on a small heap.
kafka() {
    java -Xms32m "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$libs/log4j2.properties" \
        -cp "$libs/*" "$@"
}

logging() {
    cat >"$libs/log4j2.properties" <<'LOG'
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{ISO8601} %p %m (%c)%n
LOG
}

# A cluster's size and first port are what it was made with.
shape() {
    [ -e "$dir/shape" ] || fail "there is no cluster in $dir: tests/kafka.sh start"
    read -r brokers port <"$dir/shape"
}

alive() {
    [ -e "$dir/broker-$1/pid" ] && kill -0 "$(cat "$dir/broker-$1/pid")" 2>/dev/null
}

bootstrap() {
    local list=
    for k in $(seq "$brokers"); do list=$list,127.0.0.1:$((port + k - 1)); done
    echo "${list#,}"
}

# Self-signed, so that each is its own authority.
certificate() {
    local name=$1
    keytool -genkeypair -alias weir -keyalg EC -groupname secp256r1 -validity 3650 -dname "CN=$name" \
        -ext san=ip:127.0.0.1,dns:localhost -storetype PKCS12 -keystore "$dir/$name.p12" -storepass weir-secret
    keytool -exportcert -rfc -alias weir -keystore "$dir/$name.p12" -storepass weir-secret -file "$dir/$name.pem"
}

certificates() {
    local log
    for name in server client stranger; do
        log=$(certificate "$name" 2>&1) || fail "no certificate can be made: $log"
    done
}

format() {
    certificates
    local voters= id replication=$((brokers < 3 ? 1 : 3))
    for k in $(seq "$brokers"); do voters=$voters,$k@127.0.0.1:$((port + 9 + k)); done
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'aa' | cut -c 1-22)
    for k in $(seq "$brokers"); do
        mkdir -p "$dir/broker-$k"
        local plain=127.0.0.1:$((port + k - 1)) control=127.0.0.1:$((port + 9 + k)) sasl=127.0.0.1:$((port + 19 + k))
        local tls=127.0.0.1:$((port + 29 + k)) sasl_tls=127.0.0.1:$((port + 39 + k))
        cat >"$dir/broker-$k/server.properties" <<SERVER
process.roles=broker,controller
node.id=$k
controller.quorum.voters=${voters#,}
listeners=PLAINTEXT://$plain,CONTROLLER://$control,SASL_PLAINTEXT://$sasl,SSL://$tls,SASL_SSL://$sasl_tls
advertised.listeners=PLAINTEXT://$plain,SASL_PLAINTEXT://$sasl,SSL://$tls,SASL_SSL://$sasl_tls
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
$(for listener in sasl_plaintext sasl_ssl; do
    echo "listener.name.$listener.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_weir=\"weir-secret\" user_outsider=\"outsider-secret\";"
    echo "listener.name.$listener.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
    echo "listener.name.$listener.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
done)
ssl.keystore.type=PKCS12
ssl.keystore.location=$dir/server.p12
ssl.keystore.password=weir-secret
ssl.truststore.type=PEM
ssl.truststore.location=$dir/client.pem
listener.name.ssl.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:weir;User:CN=client
log.dirs=$dir/broker-$k/data
num.partitions=1
auto.create.topics.enable=false
default.replication.factor=$replication
min.insync.replicas=$((replication > 1 ? 2 : 1))
offsets.topic.replication.factor=$replication
transaction.state.log.replication.factor=$replication
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=$replication
share.coordinator.state.topic.min.isr=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# A killed broker is noticed soon.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
replica.lag.time.max.ms=3000
log.segment.bytes=67108864
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=2097152
SERVER
        kafka kafka.tools.StorageTool format -t "$id" -c "$dir/broker-$k/server.properties" \
            --add-scram 'SCRAM-SHA-512=[name=weir,password=weir-secret]' \
            --add-scram 'SCRAM-SHA-512=[name=outsider,password=outsider-secret]' >"$dir/broker-$k/format.log" 2>&1 ||
            fail "broker $k cannot be formatted: $(tail -3 "$dir/broker-$k/format.log")"
    done
}

launch() {
    local k=$1
    alive "$k" && return
    # A broker that writes to a closed terminal would die of it.
    setsid java -Xms64m "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dlog4j2.configurationFile="$libs/log4j2.properties" -cp "$libs/*" \
        kafka.Kafka "$dir/broker-$k/server.properties" >>"$dir/broker-$k/log" 2>&1 </dev/null 9>&- &
    echo $! >"$dir/broker-$k/pid"
}

# Until a broker answers on its plain address.
answers() {
    local k=$1
    for _ in $(seq 600); do
        alive "$k" || fail "broker $k ended: $(tail -5 "$dir/broker-$k/log")"
        if (exec 8<>"/dev/tcp/127.0.0.1/$((port + k - 1))") 2>/dev/null; then return; fi
        sleep 0.1
    done
    fail "broker $k does not answer: $(tail -5 "$dir/broker-$k/log")"
}

end() {
    local k=$1 signal=$2
    alive "$k" || return 0
    local pid
    pid=$(cat "$dir/broker-$k/pid")
    kill -CONT "$pid" 2>/dev/null || true
    kill "-$signal" "$pid" 2>/dev/null || true
    for _ in $(seq 300); do
        if ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$dir/broker-$k/pid"
}

end_all() {
    [ -e "$dir/shape" ] || return 0
    shape
    # The last to go needs the others to say goodbye: all are told at once.
    for k in $(seq "$brokers"); do if alive "$k"; then kill -CONT "$(cat "$dir/broker-$k/pid")"; kill "$(cat "$dir/broker-$k/pid")"; fi; done
    for k in $(seq "$brokers"); do
        for _ in $(seq 50); do alive "$k" || break; sleep 0.1; done
        end "$k" KILL
    done
}

start() {
    local wanted=1 first=19092 parent=
    while [ $# -gt 0 ]; do
        case $1 in
            --brokers) wanted=$2 ;;
            --port) first=$2 ;;
            --until-exit-of) parent=$2 ;;
            *) fail "start does not know $1" ;;
        esac
        shift 2
    done
    jars
    logging
    mkdir -p "$dir"
    if [ ! -e "$dir/shape" ]; then
        brokers=$wanted port=$first
        format
        echo "$brokers $port" >"$dir/shape"
    fi
    shape
    for k in $(seq "$brokers"); do launch "$k"; done
    for k in $(seq "$brokers"); do answers "$k"; done
    # The address is open before the broker is known to the controller: a first answer to a question is the proof.
    for _ in $(seq 60); do
        if kafka org.apache.kafka.tools.TopicCommand --bootstrap-server "$(bootstrap)" --list >/dev/null 2>&1; then break; fi
        sleep 0.5
    done
    if [ -n "$parent" ]; then
        setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 0.5; done; WEIR_KAFKA_DIR=$2 "$3" clean' \
            kafka-watch "$parent" "$dir" "$(realpath "$0")" >/dev/null 2>&1 </dev/null 9>&- &
    fi
    cat <<HELP
bootstrap_servers = "$(bootstrap)"
sasl_bootstrap_servers = "127.0.0.1:$((port + 20))"
tls_bootstrap_servers = "127.0.0.1:$((port + 30))"
sasl_tls_bootstrap_servers = "127.0.0.1:$((port + 40))"
certificates = "$dir"
records:  weir events --kafka $(bootstrap) --topic weir.usage --follow
messages: tests/kafka.sh consume weir.usage
HELP
}

command=${1:-}
shift || true
case $command in
    start) start "$@" ;;
    stop) end_all ;;
    clean)
        end_all
        rm -rf "$dir"
        ;;
    status)
        shape
        for k in $(seq "$brokers"); do
            if alive "$k"; then echo "broker $k: runs on 127.0.0.1:$((port + k - 1))"; else echo "broker $k: is down"; fi
        done
        ;;
    broker)
        shape
        case ${2:-} in
            start) launch "$1" && answers "$1" ;;
            stop) end "$1" TERM ;;
            kill) end "$1" KILL ;;
            pause) kill -STOP "$(cat "$dir/broker-$1/pid")" ;;
            resume) kill -CONT "$(cat "$dir/broker-$1/pid")" ;;
            *) fail "a broker can start, stop, kill, pause, resume" ;;
        esac
        ;;
    consume)
        shape
        topic=${1:?a topic}
        shift
        kafka org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$(bootstrap)" --topic "$topic" --from-beginning \
            --property print.key=true --property print.headers=true "$@"
        ;;
    tool)
        jars
        logging
        kafka "$@"
        ;;
    jars)
        jars
        echo "$libs/*"
        ;;
    *)
        sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0" >&2
        exit 64
        ;;
esac
