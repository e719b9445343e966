"""Installs the triggers that refuse to change or delete audit entries."""

from django.db import migrations

from vault.triggers import install, lift


def install_triggers(apps, schema_editor):
    install(schema_editor.connection)


def lift_triggers(apps, schema_editor):
    lift(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("vault", "0001_initial")]

    operations = [migrations.RunPython(install_triggers, lift_triggers)]
