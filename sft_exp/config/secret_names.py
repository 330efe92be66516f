"""Names of environment variables that hold secrets."""

# a regular expression, in any case
SECRETS = r"SECRET|TOKEN|PASSW|API_?KEY|ACCESS_?KEY|PRIVATE|CREDENTIAL"
