import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.config.ConfigResource;

/** Lists a broker's topics: `ops/kafka/kafka topics` runs it from its source. */
class Topics {
  public static void main(String[] arguments) throws Exception {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
      Map<String, TopicDescription> topics =
          new TreeMap<>(admin.describeTopics(admin.listTopics().names().get()).allTopicNames().get());
      List<ConfigResource> resources =
          topics.keySet().stream().map(name -> new ConfigResource(ConfigResource.Type.TOPIC, name)).toList();
      var settings = admin.describeConfigs(resources).all().get();
      topics.forEach((name, topic) -> {
        String set = settings.get(new ConfigResource(ConfigResource.Type.TOPIC, name)).entries().stream()
            .filter(entry -> entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG)
            .map(entry -> entry.name() + "=" + entry.value())
            .sorted()
            .collect(Collectors.joining(" "));
        System.out.printf("%-40s partitions=%d replicas=%d %s%n", name, topic.partitions().size(),
            topic.partitions().get(0).replicas().size(), set);
      });
    }
  }
}
