"""The log on Apache Kafka: a topic whose partitions begin with a genesis. confluent-kafka lives here."""

from ctxlog.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
