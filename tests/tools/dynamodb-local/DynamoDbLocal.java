import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import software.amazon.dynamodb.services.local.main.ServerRunner;

/**
 * Starts DynamoDB Local bound to loopback: by itself it listens on every interface, and it has no
 * option against that. Run as source, with its own arguments:
 * {@code java -Djava.library.path=LIB -cp 'LIB/*' DynamoDbLocal.java -port 8000 -sharedDb -inMemory}
 */
public class DynamoDbLocal {
    public static void main(String[] args) throws Exception {
        var proxy = ServerRunner.createServerFromCommandLineArgs(args);
        var field = proxy.getClass().getDeclaredField("server");
        field.setAccessible(true);
        for (var connector : ((Server) field.get(proxy)).getConnectors()) {
            ((ServerConnector) connector).setHost("127.0.0.1");
        }
        proxy.start();
        proxy.join();
    }
}
