//! pgfunnel: a PostgreSQL connection-pooling proxy for AWS Lambda and other serverless callers.
